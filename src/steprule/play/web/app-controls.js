// What stands around board and picture: the words, the pickers, and the fields of the surface.
(function (steprule) {
  "use strict";
  const { element, keyOf } = steprule, find = (id) => document.getElementById(id);

  const dark = (state) => (state.scheme ? state.scheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);

  /** Show the frame of a state: its words, its view and its colours. */
  steprule.frameOf = function (state, word) {
    const root = document.documentElement;
    root.lang = state.lang;
    if (state.scheme) root.dataset.scheme = state.scheme;
    else delete root.dataset.scheme;
    for (const one of document.querySelectorAll("[data-word]")) one.textContent = word(one.dataset.word);
    for (const one of document.querySelectorAll("[data-label]")) one.setAttribute("aria-label", word(one.dataset.label));
    for (const one of document.querySelectorAll("[data-view]")) one.setAttribute("aria-pressed", String(one.dataset.view === state.view));
    for (const one of document.querySelectorAll("[data-lang]")) one.setAttribute("aria-pressed", String(one.dataset.lang === state.lang));
    find("scheme").textContent = word(dark(state) ? "light" : "dark");
    const stage = state.view === "lecture" ? state.stage : state.view;
    find("surface").hidden = stage !== "surface";
    find("data").hidden = stage !== "data";
  };

  const option = (value, text, selected = false) => element("option", { value, selected }, text);
  const group = (label, ...options) => { const made = element("optgroup", {}, ...options); made.label = label; return made; };

  // Fill a picker, unless it is filled so already.
  function fill(id, made, ...children) {
    const select = find(id);
    if (select.dataset.made === made) return;
    select.dataset.made = made;
    select.replaceChildren(...children);
  }

  function pickers(state, word) {
    const { lang } = state, title = (one) => option(one.key, one.key.split(".").at(-1));
    const board = steprule.rules.filter((one) => one.board).map(title), zoo = () => steprule.rules.filter((one) => !one.board).map(title);
    fill("load", lang, option("", word("choose")), group(word("of-board"), ...board), group(word("of-zoo"), ...zoo()));
    fill("add", lang, option("", word("choose")), ...zoo());
    fill("surface-name", lang, ...steprule.surfaces.map((name) => option(name, word(name))));
    fill("clip", lang, ...Object.keys(steprule.clips).map((name) => option(name, word(`clip-${name}`))));
    const list = state.picked.map((one) => [keyOf(one), steprule.titleOf(one, word)]);
    fill("focus", JSON.stringify([lang, list]), ...list.map(([key, title]) => option(key, title)));
    find("focus").value = state.focus;
    find("clip").value = state.picked.find((one) => keyOf(one) === state.focus)?.clip ?? "none";
  }

  const FIELDS = {
    kappa: { show: (value) => Math.log10(value), read: (value) => +(10 ** value).toPrecision(3), told: (value) => String(value) },
    angle: { told: (value) => `${value}°` },
    noise: { told: (value) => String(value) },
    seed: {},
    steps: {},
  };

  /** Show a state in the pickers and fields. */
  steprule.controls = function (state, word) {
    pickers(state, word);
    find("surface-name").value = state.surface;
    find("vectors").checked = state.vectors;
    for (const one of document.querySelectorAll("[data-only]")) one.hidden = one.dataset.only !== state.surface;
    for (const [name, { show = Number, told }] of Object.entries(FIELDS)) {
      const field = find(name);
      if (document.activeElement !== field) field.value = show(state[name]);
      if (told) {
        field.setAttribute("aria-valuetext", told(state[name]));
        document.querySelector(`output[for="${name}"]`).textContent = told(state[name]);
      }
    }
    const handle = document.querySelector(".handle");
    handle.setAttribute("aria-label", word("start-at", ...state.start.map((value) => steprule.short(value))));
  };

  function fields({ change }) {
    for (const [name, { read = Number }] of Object.entries(FIELDS))
      find(name).addEventListener("input", (event) => {
        const patch = { [name]: read(+event.target.value) }, right = event.target.value !== "" && steprule.checked(patch) !== null;
        event.target.setAttribute("aria-invalid", String(!right));
        if (right) change(patch);
      });
    find("surface-name").addEventListener("change", (event) => change({ surface: event.target.value }));
    find("vectors").addEventListener("change", (event) => change({ vectors: event.target.checked }));
  }

  function frame({ store, change, scene }) {
    for (const one of document.querySelectorAll("[data-view]"))
      one.addEventListener("click", () => {
        const { view } = one.dataset;
        if (view === "lecture") scene(store.state.scene);
        else change({ view });
      });
    for (const one of document.querySelectorAll("[data-lang]")) one.addEventListener("click", () => change({ lang: one.dataset.lang }));
    find("scheme").addEventListener("click", () => change({ scheme: dark(store.state) ? "light" : "dark" }));
  }

  function list({ store, change, edit, tell, word }) {
    find("load").addEventListener("change", (event) => {
      const text = steprule.source(event.target.value);
      event.target.value = "";
      if (!text) return;
      const picked = store.state.picked.filter((one) => one.rule !== "mine").slice(0, 7);
      change({ text, picked: [...picked, { rule: "mine", clip: "none", hypers: {} }], focus: "mine" });
    });
    find("add").addEventListener("change", (event) => {
      const rule = event.target.value;
      event.target.value = "";
      if (store.state.picked.length >= 8) return tell(word("full"));
      if (rule) change({ picked: [...store.state.picked, { rule, clip: "none", hypers: {} }], focus: rule });
    });
    find("focus").addEventListener("change", (event) => change({ focus: event.target.value }));
    find("clip").addEventListener("change", (event) => edit((one) => ({ ...one, clip: event.target.value, hypers: { ...one.hypers } })));
    find("reset").addEventListener("click", () => edit((one) => ({ ...one, hypers: {} })));
  }

  function saves({ store, tell, word, link, focusOf }) {
    find("copy-link").addEventListener("click", async () => {
      link();
      try {
        await navigator.clipboard.writeText(location.href);
        tell(word("copied"));
      } catch {
        tell(word("not-copied"));
      }
    });
    const entry = () => store.state.picked.find((one) => keyOf(one) === store.state.focus);
    find("as-python").addEventListener("click", () => {
      const one = focusOf();
      if (!one?.rule) return tell(word("no-rule"));
      const name = `${one.rule.name.replace(/\W+/g, "_")}.py`;
      steprule.save(name, steprule.python(steprule.textOf(entry(), store.state), one, store.state));
      tell(word("saved-python", name));
    });
    find("as-file").addEventListener("click", async () => {
      const one = focusOf();
      if (!one?.rule) return tell(word("no-rule"));
      try {
        const { name, text } = await steprule.single(entry(), one, store.state);
        steprule.save(name, text);
        const rule = steprule.program(steprule.textOf(entry(), store.state))?.name ?? "program";
        tell(word(name.endsWith(".js") ? "saved-script" : "saved", name, name.replace(/js$/, `py:${rule}`)));
      } catch (error) {
        tell(`${word("no-file")}: ${error.what ?? error.message}`);
      }
    });
  }

  /** Listen to everything that stands around board and picture. */
  steprule.listen = function (page) {
    fields(page);
    frame(page);
    list(page);
    saves(page);
  };
})(globalThis.steprule ??= {});
