// The page: its state, who is told of what, and the first trajectory.
(function (steprule) {
  "use strict";
  const { keyOf, titleOf } = steprule, find = (id) => document.getElementById(id);
  const read = steprule.decoded(location.hash);
  const store = new steprule.Store({ ...steprule.beginning, lang: navigator.language?.startsWith("ru") ? "ru" : "en", ...read });
  const word = (key, ...values) => steprule.word(store.state.lang, key, ...values);
  const runs = new Map();
  let focus, trajectories = [];

  // What a trajectory depends on, as text. Those of before are kept: a lecturer goes back and forth.
  const ground = ({ surface, kappa, angle, noise, seed, start, steps }) => JSON.stringify([surface, kappa, angle, noise, seed, start, steps]);
  function compute(state, only) {
    const where = ground(state), keys = state.picked.map(keyOf);
    trajectories = state.picked.filter((one) => !only || keyOf(one) === only).map((entry) => {
      const key = keyOf(entry), made = JSON.stringify([entry, where, entry.rule === "mine" ? state.text : ""]);
      if (!runs.has(made)) {
        if (runs.size > 64) runs.delete(runs.keys().next().value);
        runs.set(made, steprule.trajectory(entry, state));
      }
      return { ...runs.get(made), key, title: titleOf(entry, word), look: steprule.look(key, keys) };
    });
    focus = trajectories.find((one) => one.key === state.focus);
  }

  const picture = new steprule.Picture(document.querySelector(".picture"), (start) => change({ start: start.map((value) => Math.max(-1e3, Math.min(1e3, value))) }));
  const charts = new steprule.Charts(document.querySelector(".charts"), (t) => playback.seek(t));
  const playback = new steprule.Playback({ store, announce });
  const methods = new steprule.Methods(document.querySelector(".methods"), { toggle, focus: adjust });
  const numbers = new steprule.Numbers(document.querySelector(".numbers"), (name, value) => sets({ [name]: value }), (name, value) => edit((one) => ({ ...one, choices: { ...one.choices, [name]: value } })));
  const lecture = new steprule.Lecture(find("lecture"), { go: (place) => scene(place), apply: (patch) => change(steprule.checked(patch) ?? {}) });
  let board;

  /** What others need of the page: the state, its changes, the words and the methods with their rules. */
  steprule.app = {
    get state() { return store.state; },
    set: (patch) => store.set(patch),
    on: (listener) => store.on(listener),
    word,
    trajectories: () => trajectories,
    rules: () => trajectories.filter((one) => one.rule).map(({ key, title, rule, hypers, look, entry }) => ({ key, title, rule, hypers, look, entry, text: steprule.textOf(entry, store.state) })),
  };

  const change = (patch) => store.set(patch);

  function toggle(one, on) {
    const { picked } = store.state, key = keyOf(one);
    if (on && picked.length >= 8) return tell(word("full"), () => methods.show(store.state, word));
    change({ picked: on ? [...picked, one] : picked.filter((other) => keyOf(other) !== key), ...(on ? { focus: key } : {}) });
  }

  function adjust(one) {
    if (!store.state.picked.some((other) => keyOf(other) === keyOf(one))) toggle(one, true);
    change({ focus: keyOf(one) });
  }

  // Change the entry in hand; the rest of the list stays as it is.
  function edit(change_) {
    const { picked, focus: key } = store.state, made = picked.map((one) => (keyOf(one) === key ? change_(one) : one));
    const at = picked.findIndex((one) => keyOf(one) === key);
    if (at >= 0) change({ picked: made, focus: keyOf(made[at]) });
  }
  const sets = (hypers) => edit((one) => ({ ...one, hypers: { ...one.hypers, ...hypers } }));

  function scene(place) {
    const found = steprule.scenes?.[place];
    if (!found) return change({ view: "lecture", scene: 0 });
    const { view = "surface", ...setup } = found.setup, patch = steprule.checked({ ...setup, stage: view, text: steprule.shown(setup.text ?? steprule.beginning.text) });
    playback.pause();
    const { lang, scheme, speed } = store.state;
    // The way back in the browser leads to what was there before the lecture.
    if (store.state.view !== "lecture") {
      link();
      history.pushState(null, "", location.hash);
    }
    change({ ...steprule.beginning, speed, ...(patch ?? {}), t: 0, lang, scheme, view: "lecture", scene: place });
    if (!still()) playback.play();
  }

  function tell(text, then) {
    find("told").textContent = text;
    then?.();
  }

  // What a reader of the screen hears of the picture, when it stands.
  function announce() {
    const { t, steps, surface } = store.state;
    const losses = trajectories.filter((one) => one.rule).map((one) => word("summary-loss", one.title, one.diverged && t > one.end ? word("diverged", one.end + 1) : steprule.short(one.loss[Math.min(t, one.end)])));
    const text = word("summary", t, steps, word(surface), losses.join("; "));
    find("summary").textContent = text;
    document.querySelector(".picture canvas").setAttribute("aria-label", text);
    methods.fill(trajectories, t, word);
  }

  const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const NEEDS = ["text", "picked", "surface", "kappa", "angle", "noise", "seed", "start", "steps", "focus", "lang"];

  // Draw what is seen at the iteration of the state; this is all that a frame does.
  function draw(state) {
    const words = { point: word("lookahead-point"), g: word("vector-g"), m: word("vector-m"), s: word("vector-s") };
    picture.draw({ surface: steprule.surface(state), key: JSON.stringify([state.surface, state.kappa, state.angle]), start: state.start, t: state.t, trajectories, focus: state.vectors ? focus : undefined, words });
    charts.show(state.t);
    playback.show(state);
    methods.losses(trajectories, state.t, word);
  }

  function render(state, changed) {
    const has = (...names) => names.some((name) => changed.has(name));
    if (has("lang", "scheme", "view", "stage")) steprule.frameOf(state, word);
    if (has("surface") && !has("start") && !changed.has("link")) return change({ start: steprule.surface(state).start, noise: steprule.surface(state).noise ?? 0, t: Math.min(state.t, state.steps) });
    if (has("steps") && state.t > state.steps) return change({ t: state.steps });
    const anew = has(...NEEDS);
    if (anew) {
      compute(state, has("first") ? state.focus : "");
      steprule.controls(state, word);
      methods.show(state, word);
      numbers.show(focus?.rule ?? focus?.declared, focus?.hypers ?? {}, `${state.focus}${state.lang}`, word);
      numbers.why(focus, word);
      if (!has("first")) steprule.showTheory(document.querySelector(".theory"), focus, state, word, sets);
      if (board) {
        board.write(state.text);
        board.show(steprule.read(state.text), word);
      }
    }
    if (has("view", "scene", "lang")) lecture.show(state, word);
    draw(state);
    if ((anew || has("scheme", "view", "stage")) && !has("first")) {
      charts.draw(trajectories, focus, steprule.surface(state), state.steps, JSON.stringify([state.picked, ground(state), state.text, state.focus]));
      document.querySelector('[data-chart="effect"] figcaption').textContent = word("effect", focus?.title ?? "–");
    }
    if (!playback.playing) later(announce, 300);
    later(link, 500);
  }

  const waiting = new Map();
  function later(action, milliseconds) {
    clearTimeout(waiting.get(action));
    waiting.set(action, setTimeout(action, milliseconds));
  }
  let written = "";
  const take = () => change({ text: written });
  const writes = { edited: (text) => { written = text; later(take, 120); tell(""); }, full: () => tell(word("too-long")) };
  const link = () => history.replaceState(null, "", steprule.encoded(store.state));

  store.on(render);
  steprule.listen({ store, change, edit, sets, tell, word, playback, scene, link, focusOf: () => focus });
  const everything = [...Object.keys(store.state), "link"];
  render(store.state, new Set([...everything, "first"]));
  performance.mark("first-trajectory");
  if (read === null) tell(word("foreign"));
  addEventListener("popstate", () => {
    clearTimeout(waiting.get(link));
    const patch = steprule.decoded(location.hash);
    if (patch) change({ ...steprule.beginning, ...patch });
    else tell(word("foreign"));
  });

  // The other methods, the editor and the typesetter can wait until the first picture is there.
  requestAnimationFrame(() => setTimeout(() => {
    render(store.state, new Set(everything));
    board = new steprule.Board(document.querySelector(".board"), store.state.text, writes);
    board.translate(word);
    store.on((state, changed) => changed.has("lang") && board.translate(word));
    board.show(steprule.read(store.state.text), word);
    if (steprule.data?.mount) steprule.data.mount(find("data"), steprule.app);
    if (!still() && location.hash === "") playback.play();
    addEventListener("resize", () => render(store.state, new Set(["scheme"])));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => render(store.state, new Set(["scheme"])));
    performance.mark("ready");
    document.documentElement.dataset.ready = "";
  }));
})(globalThis.steprule ??= {});
