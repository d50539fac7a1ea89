// The lecture: eleven short scenes, one a row of the board, in the lecture's order. A test holds every claim of their
// texts against the numbers that the page computes.
(function (steprule) {
  "use strict";
  const entry = (rule, hypers = {}, clip = "none") => ({ rule, clip, hypers, choices: {} });
  const sentence = (en, ru) => ({ en, ru });
  const button = (en, ru, patch) => ({ label: { en, ru }, patch });

  // A rule of the board as it is written, so that the whiteboard shows its formula and one can change it.
  const written = (name) => steprule.facts.library[`board.${name}`].source;

  const IMPLICIT = 'board.nesterov(look_ahead="implicit")\n';
  const CLOSURE_FREE = `@rule
def closure_free(theta, g, m, *,
                 lr=hyper(0.5, low=0),
                 beta=hyper(0.8, low=0, high=1)):
    back = theta + lr * beta * m  # theta holds the look-ahead point
    m = (1 - beta) * g + beta * m
    new = back - lr * m  # what Nesterov calls theta
    return new - lr * beta * m, m
`;

  const digits = (more) => ({ model: "logreg", batch: 10, budget: "epochs", epochs: 3, seed: 0, final: false, axis: "epochs", lr_sgd: 0.1, lr_gd: 0.1, ...more });
  const far = [-3.6, 1.6];

  /**
   * The scenes: `row` of the board, texts in both languages, the state that sets a scene (`setup`, whose `view` is the
   * stage), and `buttons`, each of which does what the text proposes to try.
   */
  steprule.scenes = [
    {
      id: "gd",
      row: "1",
      title: sentence("Gradient descent: the whole data set", "Градиентный спуск: вся выборка"),
      watch: sentence(
        "Every step goes straight across the contour. Across the valley it overshoots and comes back, along the valley it creeps: the steepest direction decides how large η may be, and the flattest one pays for it.",
        "Каждый шаг идёт поперёк линии уровня. Поперёк долины спуск перескакивает и возвращается, вдоль долины еле ползёт: самое крутое направление решает, каким может быть η, а расплачивается самое пологое.",
      ),
      try: sentence(
        "The curvature across is L = 12, so η must stay below 2/L ≈ 0.167. Take η = 0.17: every step now lands further away than the last.",
        "Кривизна поперёк долины L = 12, поэтому η должно быть меньше 2/L ≈ 0,167. Возьмите η = 0,17: теперь каждый шаг попадает дальше предыдущего.",
      ),
      setup: { view: "surface", text: written("gd"), picked: [entry("gd", { lr: 0.15 })], focus: "gd", surface: "quadratic", kappa: 12, start: far, steps: 60 },
      buttons: [button("η = 0.17", "η = 0,17", { picked: [entry("gd", { lr: 0.17 })], t: 0 })],
    },
    {
      id: "sgd",
      row: "2",
      title: sentence("Stochastic gradient descent: a mini-batch", "Стохастический градиентный спуск: мини-батч"),
      watch: sentence(
        "The update is the same, but the gradient comes from a few examples: the right one on average, with noise on top. Far from the minimum the noise hardly matters. Near it GD settles, while SGD goes on wandering.",
        "Формула та же, но градиент посчитан по нескольким объектам: в среднем верный, сверху шум. Далеко от минимума шум почти не мешает. Рядом с минимумом GD останавливается, а SGD продолжает блуждать.",
      ),
      try: sentence(
        "Give SGD a tenth of the rate, η = 0.01. It needs longer to arrive, and then keeps much closer to the minimum.",
        "Уменьшите η у SGD в десять раз, до 0,01. Идти дольше, зато потом он держится гораздо ближе к минимуму.",
      ),
      setup: { view: "surface", text: written("sgd"), picked: [entry("gd", { lr: 0.1 }), entry("sgd", { lr: 0.1 })], focus: "sgd", surface: "quadratic", kappa: 12, noise: 2, seed: 1, start: far, steps: 1000, speed: 60 },
      buttons: [button("η = 0.01", "η = 0,01", { picked: [entry("gd", { lr: 0.1 }), entry("sgd", { lr: 0.01 })], t: 0 })],
    },
    {
      id: "epochs",
      row: "3",
      title: sentence("Iterations and epochs", "Итерации и эпохи"),
      watch: sentence(
        "An epoch is one pass over the data. The board's example: 10'000 objects in batches of 10 are 1'000 iterations an epoch; these 1'077 digits are 108. With the same three epochs GD makes three steps and SGD 324, and SGD's loss is far lower.",
        "Эпоха — один проход по данным. Пример с доски: 10'000 объектов, батч 10 — это 1'000 итераций в эпохе; здесь 1'077 цифр, выходит 108. За те же три эпохи GD делает три шага, а SGD — 324, и его потери намного меньше.",
      ),
      try: sentence(
        "Take batches of 100, so that an epoch is 11 iterations. With the same η there are fewer steps, and less is learnt in three epochs.",
        "Возьмите батч 100: в эпохе станет 11 итераций. При том же η шагов меньше, и за три эпохи модель успевает выучить меньше.",
      ),
      setup: { view: "data", text: written("sgd"), picked: [entry("gd"), entry("sgd")], focus: "sgd", data: digits() },
      buttons: [button("Batches of 100", "Батч 100", { data: digits({ batch: 100 }) })],
    },
    {
      id: "final",
      row: "4",
      title: sentence("Final: one iteration on the whole data set", "Финал: одна итерация по всей выборке"),
      watch: sentence(
        "The board's last line, read literally: after the mini-batch iterations comes one with the gradient of the whole data set. It is the ring at the end of the curve. Its loss is no longer that of ten digits but of all 1'077, and the step lowers it.",
        "Последняя строка доски, понятая буквально: после мини-батчей — одна итерация с градиентом по всей выборке. Это кружок в конце графика. Потери в нём уже не по десяти цифрам, а по всем 1'077, и шаг их уменьшает.",
      ),
      try: sentence(
        "Do without the final iteration: one iteration less, and hardly a difference in the end. On the board it closes a lecture; in training it is an option that is off.",
        "Уберите финальную итерацию: на одну меньше, а в конце разницы почти нет. На доске она завершает лекцию, в обучении это опция, и по умолчанию она выключена.",
      ),
      setup: { view: "data", text: written("sgd"), picked: [entry("sgd")], focus: "sgd", data: digits({ final: true, axis: "iterations", epochs: 1 }) },
      buttons: [button("Without the final iteration", "Без финальной итерации", { data: digits({ axis: "iterations", epochs: 1 }) })],
    },
    {
      id: "momentum",
      row: "5",
      title: sentence("Momentum, and β → 0 and 1", "Моментум, и β → 0 и 1"),
      watch: sentence(
        "m is the smoothing vector: an average of the gradients so far. Across the valley they cancel, along it they agree. So momentum stands a rate at which SGD is thrown out of the valley in a few steps.",
        "m — сглаживающий вектор, среднее по прошлым градиентам. Поперёк долины они гасят друг друга, вдоль — складываются. Поэтому моментум выдерживает такое η, при котором SGD за несколько шагов вылетает из долины.",
      ),
      try: sentence(
        "At β = 0 momentum is SGD, bit for bit: it flies out with it. At β = 1 m never learns of a gradient and stays 0: nothing ever moves.",
        "При β = 0 моментум — это SGD, бит в бит: вылетает вместе с ним. При β = 1 вектор m не видит ни одного градиента и остаётся нулём: ничего никогда не сдвинется.",
      ),
      setup: { view: "surface", text: written("momentum"), picked: [entry("sgd", { lr: 0.2 }), entry("momentum", { lr: 0.2, beta: 0.9 })], focus: "momentum", surface: "quadratic", kappa: 12, start: far, steps: 200, speed: 30 },
      buttons: [
        button("β = 0", "β = 0", { picked: [entry("sgd", { lr: 0.2 }), entry("momentum", { lr: 0.2, beta: 0 })], t: 0 }),
        button("β = 1", "β = 1", { picked: [entry("sgd", { lr: 0.2 }), entry("momentum", { lr: 0.2, beta: 1 })], t: 0 }),
      ],
    },
    {
      id: "nesterov",
      row: "6",
      title: sentence("Nesterov, three ways", "Нестеров тремя способами"),
      watch: sentence(
        "Nesterov takes the gradient where momentum alone would carry θ, at the look-ahead point, and so brakes before momentum does. The board's first line wants the gradient at θₜ itself, where the step ends: that is implicit and is solved in every step. It brakes, too; the look-ahead is its first approximation, and keeps far closer to it than momentum does.",
        "Нестеров берёт градиент в точке, куда θ унёс бы один моментум, — заглядывает вперёд и потому тормозит раньше моментума. Первая строка доски хочет градиент в самой θₜ, в конце шага: это неявный метод, и уравнение решается на каждом шаге. Он тоже тормозит; заглядывание — его первое приближение и держится к нему гораздо ближе, чем моментум.",
      ),
      try: sentence(
        "Write the third way on the board, without a closure: it stores the look-ahead point in place of θ, and its path is that of Nesterov's look-ahead points, to rounding.",
        "Напишите на доске третий способ, без замыкания: вместо θ он хранит точку заглядывания, и его путь — это точки заглядывания Нестерова, с точностью до округления.",
      ),
      setup: { view: "surface", text: IMPLICIT, picked: [entry("momentum", { lr: 0.5, beta: 0.8 }), entry("nesterov", { lr: 0.5, beta: 0.8 }), entry("mine", { lr: 0.5, beta: 0.8 })], focus: "nesterov", surface: "quadratic", kappa: 8, start: far, steps: 60, speed: 8 },
      buttons: [button("Without a closure", "Без замыкания", { text: CLOSURE_FREE, picked: [entry("nesterov", { lr: 0.5, beta: 0.8 }), entry("mine", { lr: 0.5, beta: 0.8 })], t: 0 })],
    },
    {
      id: "adagrad",
      row: "7",
      title: sentence("AdaGrad: every coordinate its own step", "AdaGrad: у каждой координаты свой шаг"),
      watch: sentence(
        "S sums the squares of a coordinate's gradients, and η is divided by its root. The first step is η in both coordinates, however steep they are: the path sets out diagonally and never crosses the valley, as SGD's does. But S only grows: the effective step, in the last chart, only shrinks.",
        "S копит квадраты градиентов координаты, и η делится на корень из неё. Первый шаг равен η по обеим координатам, какой бы крутой ни была каждая: путь начинается по диагонали и, в отличие от SGD, ни разу не перескакивает долину. Но S только растёт: эффективный шаг на последнем графике только уменьшается.",
      ),
      try: sentence(
        "Make the valley 25 times as steep, κ = 300. SGD is thrown out; AdaGrad's path does not change, since the scale of a coordinate's gradient cancels.",
        "Сделайте долину в 25 раз круче, κ = 300. SGD вылетает, а путь AdaGrad не меняется: масштаб градиента координаты сокращается.",
      ),
      setup: { view: "surface", text: written("adagrad"), picked: [entry("sgd", { lr: 0.1 }), entry("adagrad", { lr: 0.8 })], focus: "adagrad", surface: "quadratic", kappa: 12, start: far, steps: 80 },
      buttons: [button("κ = 300", "κ = 300", { kappa: 300, t: 0 })],
    },
    {
      id: "rmsprop",
      row: "8",
      title: sentence("RMSProp: an average that forgets", "RMSProp: среднее, которое забывает"),
      watch: sentence(
        "The sum has become an average: old gradients fade. As they get smaller on the way down, the effective step grows again, where AdaGrad's only shrinks. S begins at 0, so the first step is η/√(1−β) in each coordinate, ten times η for β = 0.99.",
        "Сумму сменило среднее: старые градиенты забываются. По пути вниз они уменьшаются, и эффективный шаг снова растёт, а у AdaGrad только падает. S начинается с нуля, поэтому первый шаг равен η/√(1−β) по каждой координате: при β = 0,99 это десять η.",
      ),
      try: sentence(
        "Turn the valley by 45°. Now it lies along neither coordinate, and steps of its own for each coordinate no longer help: after as many iterations the loss is far higher.",
        "Поверните долину на 45°. Теперь она не идёт вдоль ни одной из координат, и отдельный шаг для каждой координаты уже не спасает: за столько же итераций потери остаются намного больше.",
      ),
      setup: { view: "surface", text: written("rmsprop"), picked: [entry("adagrad", { lr: 0.2 }), entry("rmsprop", { lr: 0.02, beta: 0.99 })], focus: "rmsprop", surface: "quadratic", kappa: 30, start: far, steps: 200, speed: 30 },
      buttons: [button("Turn by 45°", "Повернуть на 45°", { angle: 45, t: 0 })],
    },
    {
      id: "adam",
      row: "9",
      title: sentence("Adam = adaptive steps + momentum", "Adam = адаптивные шаги + моментум"),
      watch: sentence(
        "m is momentum's average of gradients, s is RMSProp's average of their squares. The board corrects no bias. With β₁ = 0.9 and β₂ = 0.99 the first step is just η in each coordinate, since (1−β₁)/√(1−β₂) = 1; RMSProp's is ten times that.",
        "m — среднее градиентов, как у моментума, s — среднее их квадратов, как у RMSProp. Поправки на смещение на доске нет. При β₁ = 0,9 и β₂ = 0,99 первый шаг равен ровно η по каждой координате: (1−β₁)/√(1−β₂) = 1. У RMSProp он в десять раз больше.",
      ),
      try: sentence("Put out the momentum, β₁ = 0: what is left is RMSProp, and the two paths are one.", "Уберите моментум, β₁ = 0: останется RMSProp, и два пути сольются в один."),
      setup: { view: "surface", text: written("adam"), picked: [entry("rmsprop", { lr: 0.05, beta: 0.99 }), entry("adam", { lr: 0.05, beta1: 0.9, beta2: 0.99 })], focus: "adam", surface: "rosenbrock", start: [-1.2, 1], steps: 300, speed: 40 },
      buttons: [button("β₁ = 0", "β₁ = 0", { picked: [entry("rmsprop", { lr: 0.05, beta: 0.99 }), entry("adam", { lr: 0.05, beta1: 0, beta2: 0.99 })], t: 0 })],
    },
    {
      id: "clip-one",
      row: "10",
      title: sentence("Clipping ①: the gradient's length", "Обрезка ①: длина градиента"),
      watch: sentence(
        "The board's ① always gives the gradient the length S_g = 1. So every step is exactly η long, on the cliff and on the plain. From this cliff SGD without it flies away at once. But what is short is made longer, too: at the bottom it never comes to rest.",
        "Обрезка ① с доски всегда делает длину градиента равной S_g = 1. Поэтому каждый шаг имеет длину ровно η — и на обрыве, и на равнине. SGD без неё с этого обрыва сразу улетает. Но и короткое становится длинным: на дне покоя не бывает.",
      ),
      try: sentence(
        "Add the usual form, which only shortens: the same path while the gradient is longer than 1, and then its steps shrink and it settles.",
        "Добавьте привычную форму, которая только укорачивает: пока градиент длиннее 1, путь тот же, а потом шаги уменьшаются и спуск успокаивается.",
      ),
      setup: { view: "surface", text: "chain(board.clip_norm, board.sgd)\n", picked: [entry("sgd", { lr: 0.03 }), entry("sgd", { lr: 0.03 }, "one")], focus: "sgd:one", surface: "beale", start: [4.2, -1.8], steps: 300, speed: 40 },
      buttons: [button("Add the usual form", "Добавить привычную форму", { picked: [entry("sgd", { lr: 0.03 }, "one"), entry("sgd", { lr: 0.03 }, "norm")], focus: "sgd:norm", t: 0 })],
    },
    {
      id: "clip-two",
      row: "11",
      title: sentence("Clipping ②: component by component", "Обрезка ②: по компонентам"),
      watch: sentence(
        "The board's ② bounds each component from above by L_g = 1, and from above only. From this corner both components are positive: each moves by at most η a step, so the steep coordinate loses its head start and the direction changes.",
        "Обрезка ② с доски ограничивает каждую компоненту сверху числом L_g = 1 — и только сверху. Из этого угла обе компоненты положительны: за шаг каждая сдвигается не больше чем на η, крутая координата теряет преимущество, и направление меняется.",
      ),
      try: sentence(
        "Start from the opposite corner. There both components are negative, nothing is clipped, and the two paths are one.",
        "Начните из противоположного угла. Там обе компоненты отрицательны, ничего не обрезается, и два пути совпадают.",
      ),
      setup: { view: "surface", text: "chain(board.clip_component, board.sgd)\n", picked: [entry("sgd", { lr: 0.07 }), entry("sgd", { lr: 0.07 }, "two")], focus: "sgd:two", surface: "quadratic", kappa: 12, start: [3.4, 1.8], steps: 100 },
      buttons: [button("The opposite corner", "Противоположный угол", { start: [-3.4, -1.8], t: 0 })],
    },
  ];
})((globalThis.steprule ??= {}));
