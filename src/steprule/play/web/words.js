// The words of the page, in English and Russian.
(function (steprule) {
  "use strict";

  /** Every word by language and key; other files add their own with `steprule.say`. */
  steprule.words = { en: Object.create(null), ru: Object.create(null) };

  /**
   * Add words to the table.
   * @param {Object<string, [string, string]>} table key → [English, Russian]
   */
  steprule.say = function (table) {
    for (const [key, [en, ru]] of Object.entries(table)) {
      steprule.words.en[key] = en;
      steprule.words.ru[key] = ru;
    }
  };

  /**
   * Return a word in a language, with {0}, {1}, … filled in.
   * @param {string} lang en or ru
   * @param {string} key
   */
  steprule.word = (lang, key, ...values) =>
    (steprule.words[lang][key] ?? key).replace(/\{(\d)\}/g, (_, place) => String(values[+place] ?? ""));

  steprule.say({
    title: ["The whiteboard comes alive", "Доска оживает"],
    lead: ["Write an update rule, watch what it does.", "Напишите правило шага и посмотрите, что оно делает."],
    views: ["What is shown", "Что показано"],
    surface: ["Surface", "Поверхность"],
    data: ["Data", "Данные"],
    lecture: ["Lecture", "Лекция"],
    language: ["Language", "Язык"],
    scheme: ["Colours", "Цвета"],
    dark: ["Dark", "Тёмная"],
    light: ["Light", "Светлая"],
    whiteboard: ["Whiteboard", "Доска"],
    picture: ["What it does", "Что оно делает"],
    load: ["Write on the board", "Написать на доске"],
    choose: ["a rule …", "правило …"],
    "of-board": ["The board", "С доски"],
    "of-zoo": ["The zoo", "Зоопарк"],
    editor: ["The rule, in Python", "Правило на Python"],
    "editor-help": [
      "The tab key indents; press Escape, then tab, to leave the editor.",
      "Клавиша Tab делает отступ; чтобы выйти из редактора, нажмите Escape, затем Tab.",
    ],
    formula: ["The formula", "Формула"],
    "too-long": ["The text is too long: 8000 letters at most.", "Текст слишком длинный: не больше 8000 знаков."],
    "no-rule": ["There is no rule here yet.", "Правила здесь пока нет."],
    "no-rule-fix": ["Write @rule on the line above the def of the update.", "Напишите @rule строкой выше def, где записан шаг."],
    "only-transform": ["A transform alone moves nothing.", "Преобразование само ничего не сдвигает."],
    "only-transform-fix": ["Put it in front of a rule in the last line: chain(name, board.sgd).", "Поставьте его перед правилом в последней строке: chain(имя, board.sgd)."],
    "formula-long": ["The formula is too long to be drawn; the rule runs all the same.", "Формула слишком длинная, чтобы её нарисовать; правило всё равно работает."],
    "unknown-rule": ["There is no rule {0} in this version.", "В этой версии нет правила {0}."],
    "line-column": ["line {0}, column {1}", "строка {0}, столбец {1}"],
    numbers: ["Numbers", "Числа"],
    "numbers-of": ["Numbers of", "Числа метода"],
    clip: ["Clipping in front", "Обрезка градиента"],
    "clip-none": ["none", "нет"],
    "clip-one": ["① to the length S_g (board)", "① до длины S_g (доска)"],
    "clip-two": ["② from above by L_g (board)", "② сверху числом L_g (доска)"],
    "clip-norm": ["global norm, only shortens", "по норме, только укорачивает"],
    "clip-value": ["each component, both sides", "каждая компонента, с двух сторон"],
    reset: ["Reset the numbers", "Вернуть числа"],
    outside: ["{0} must be a number of {1}.", "{0} — число из {1}."],
    "as-python": ["Download as Python", "Скачать как Python"],
    "as-file": ["Download as single file", "Скачать одним файлом"],
    "copy-link": ["Copy link", "Скопировать ссылку"],
    copied: ["The link is copied.", "Ссылка скопирована."],
    "not-copied": ["The link is in the address bar.", "Ссылка — в адресной строке."],
    saved: ["{0} is saved.", "{0} сохранён."],
    "saved-python": [
      "{0} is saved. It runs with the library, and a training script can import the rule from it.",
      "{0} сохранён. Он работает с библиотекой, и правило можно импортировать из него в свой скрипт.",
    ],
    "saved-script": [
      "{0} is saved: JavaScript. For one file of torch, download as Python, then: steprule export {1}",
      "{0} сохранён: JavaScript. Чтобы получить один файл для torch, скачайте как Python, затем: steprule export {1}",
    ],
    "no-file": ["This rule cannot leave as a single file", "Это правило нельзя скачать одним файлом"],
    quadratic: ["Quadratic", "Квадратичная"],
    rosenbrock: ["Rosenbrock", "Розенброк"],
    beale: ["Beale", "Била"],
    himmelblau: ["Himmelblau", "Химмельблау"],
    saddle: ["Saddle", "Седло"],
    ravine: ["Ravine with noise", "Овраг с шумом"],
    kappa: ["Condition κ", "Обусловленность κ"],
    angle: ["Turned by", "Поворот"],
    noise: ["Noise", "Шум"],
    seed: ["Seed", "Зерно"],
    steps: ["Iterations", "Итерации"],
    "start-at": [
      "Start at x = {0}, y = {1}. Drag it, or move it with the arrow keys.",
      "Начало: x = {0}, y = {1}. Перетащите или двигайте стрелками.",
    ],
    play: ["Play", "Пуск"],
    pause: ["Pause", "Пауза"],
    back: ["Step back", "Шаг назад"],
    forward: ["Step", "Шаг"],
    scrub: ["Iteration", "Итерация"],
    speed: ["Speed", "Скорость"],
    "per-second": ["{0} a second", "{0} в секунду"],
    "of-steps": ["{0} of {1}", "{0} из {1}"],
    vectors: ["Vectors", "Векторы"],
    methods: ["Methods", "Методы"],
    mine: ["mine", "моё"],
    add: ["Add from the zoo", "Добавить из зоопарка"],
    full: ["Eight at most: take one off first.", "Не больше восьми: сначала уберите один."],
    adjust: ["Numbers of {0}", "Числа {0}"],
    remove: ["Take off {0}", "Убрать {0}"],
    loss: ["Loss", "Функция потерь"],
    length: ["Step length", "Длина шага"],
    norm: ["Gradient norm", "Норма градиента"],
    effect: ["Effective step, {0}: x ─ y ┄", "Эффективный шаг, {0}: x ─ y ┄"],
    iteration: ["iteration", "итерация"],
    charts: ["Charts", "Графики"],
    diverged: ["diverged at {0}", "расходится на {0}"],
    invalid: ["does not run", "не работает"],
    theory: ["Theory, and what is seen", "Теория и то, что видно"],
    "theory-none": ["There is no theory of {0} here.", "Для {0} теории здесь нет."],
    "theory-now": ["Rate at these numbers", "Скорость при этих числах"],
    "theory-seen": ["Rate that is seen", "Скорость на деле"],
    "theory-best": ["Best rate", "Лучшая скорость"],
    "theory-limit": ["Converges below η", "Сходится при η меньше"],
    "theory-use": ["Take the best numbers", "Взять лучшие числа"],
    "theory-note": ["the distance shrinks by this factor an iteration", "во столько раз меняется расстояние за итерацию"],
    table: ["As a table", "Таблицей"],
    method: ["Method", "Метод"],
    point: ["Point", "Точка"],
    summary: ["Iteration {0} of {1} on {2}. {3}", "Итерация {0} из {1}, {2}. {3}"],
    "summary-loss": ["{0}: loss {1}", "{0}: потери {1}"],
    "lookahead-point": ["look-ahead point", "точка заглядывания"],
    "vector-g": ["−g, gradient there", "−g, градиент там"],
    "vector-m": ["−m, first moment", "−m, первый момент"],
    "vector-s": ["√s, second moment", "√s, второй момент"],
    scenes: ["Scenes", "Сцены"],
    previous: ["Previous", "Назад"],
    next: ["Next", "Дальше"],
    watch: ["What to watch", "На что смотреть"],
    try: ["Try", "Попробуйте"],
    again: ["Set the scene again", "Вернуть сцену"],
    foreign: ["The link could not be read, so the page begins anew.", "Ссылку не удалось прочитать, поэтому всё с начала."],
    offline: ["One file, no network.", "Один файл, без сети."],
    made: ["steprule {0}", "steprule {0}"],
  });
})(globalThis.steprule ??= {});
