// The view of the digits: what is trained, how long, by which methods, and what comes of it.
(function (steprule) {
  "use strict";
  const { element, short } = steprule, { limits } = steprule.data;
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;

  const field = (id, key, control) => element("label", { class: "field" }, element("span", { "data-word": key }), control);
  const number = (id, [low, high]) => element("input", { type: "number", id, min: low, max: high, step: 1, required: true });
  const picker = (id, ...options) => element("select", { id }, ...options.map(([value, key]) => element("option", { value, "data-word": key })));
  const button = (id, key, onclick, more = "") => element("button", { type: "button", id, class: more, "data-word": key, onclick });

  /** The view in a box. */
  class View {
    /**
     * @param {HTMLElement} box
     * @param {object} app what `steprule.app` gives
     */
    constructor(box, app) {
      this.box = box;
      this.app = app;
      this.packed = JSON.parse(document.getElementById("digits").textContent);
      this.results = new steprule.data.Results(() => this.soon());
      this.pictures = new steprule.data.Pictures(this.packed);
      this.build();
      this.chart = new steprule.data.Chart(this.plot);
      app.on((_, changed) => this.render(changed));
      this.render(new Set(["lang"]));
    }

    build() {
      const inputs = {
        model: picker("data-model", ["mlp", "data-mlp"], ["logreg", "data-logreg"]), hidden: number("data-hidden", limits.hidden),
        batch: number("data-batch", limits.batch), budget: picker("data-budget", ["epochs", "data-epochs"], ["iterations", "data-iterations"]),
        amount: number("data-amount", limits.epochs), seed: number("data-seed", limits.seed), final: element("input", { type: "checkbox", id: "data-final" }),
        axis: picker("data-axis", ["iterations", "data-iterations"], ["epochs", "data-epochs"]), shown: element("select", { id: "data-shown" }),
      };
      this.inputs = inputs;
      for (const [name, one] of Object.entries(inputs)) one.addEventListener("change", () => this.typed(name, one));
      const words = (name, key, properties = {}) => element(name, { ...properties, "data-word": key });
      this.lead = element("p", { class: "note" });
      this.counts = element("p", { class: "counts", id: "data-counts" });
      this.told = element("p", { class: "told", role: "status", id: "data-told" });
      this.past = element("p", { class: "told", role: "status", id: "data-past" });
      this.start = button("data-start", "data-start", () => this.train(), "primary");
      this.pause = button("data-pause", "data-pause", () => (this.results.status === "paused" ? this.results.go() : this.results.pause()));
      this.stop = button("data-stop", "data-stop", () => this.results.stop());
      // What these say depends on more than the language.
      for (const one of [this.pause, inputs.model.options[0]]) delete one.dataset.word;
      this.rows = element("tbody");
      this.plot = element("div", { class: "data-chart", "aria-hidden": "true" });
      this.lines = element("tbody");
      this.heard = element("p", { class: "unseen", role: "status", "aria-live": "polite" });
      const head = (...keys) => element("thead", {}, element("tr", {}, ...keys.map((key) => words("th", key, { scope: "col" }))));
      this.box.replaceChildren(
        words("h2", "data-title", { id: "data-heading" }), this.lead,
        element("div", { class: "controls" },
          field("data-model", "data-model", inputs.model), (this.hidden = field("data-hidden", "data-hidden", inputs.hidden)),
          field("data-batch", "data-batch", inputs.batch), field("data-budget", "data-budget", inputs.budget),
          field("data-amount", "data-amount", inputs.amount), field("data-seed", "data-seed", inputs.seed),
          element("label", { class: "check" }, inputs.final, " ", words("span", "data-final"))),
        this.counts, this.told, this.past,
        element("div", { class: "playback" }, this.start, this.pause, this.stop, field("data-axis", "data-axis", inputs.axis)),
        element("figure", {}, element("figcaption", {}, words("b", "data-loss"), " ", words("span", "data-loss-help", { class: "note" })), this.plot),
        element("div", { class: "scroll", tabIndex: 0, role: "region", "data-label": "data-method" },
          element("table", { class: "data-methods" }, head("data-method", "data-rate", "data-iteration", "data-training", "data-validation", "data-test"), this.rows)),
        element("section", { class: "data-digits" }, element("p", { class: "row" }, field("data-shown", "data-of-method", inputs.shown), (this.right = element("output", { for: "data-shown" }))), this.pictures.box),
        element("details", { class: "data-lines" }, words("summary", "data-lines"), element("div", { class: "scroll", tabIndex: 0, role: "region", "data-label": "data-lines" },
          element("table", {}, head("data-method", "data-epoch", "data-iteration", "data-training", "data-validation"), this.lines))),
        this.heard);
    }

    /** Take what was typed into a field; what is not right is told, and changes nothing. */
    typed(name, control) {
      const { word, state } = this.app, spec = steprule.data.spec(state), field = name === "amount" ? spec.budget : name, range = limits[field];
      const value = control.type === "checkbox" ? control.checked : range ? control.valueAsNumber : control.value;
      const wrong = range && !(Number.isInteger(value) && value >= range[0] && value <= range[1]);
      control.setAttribute("aria-invalid", String(Boolean(wrong)));
      this.told.textContent = wrong ? word("data-wrong", word(`data-${field}`), ...range) : "";
      if (!wrong) this.set({ [field]: value });
    }

    set(patch) {
      this.app.set({ data: { ...this.app.state.data, ...patch } });
    }

    methods() {
      return this.app.rules().map((one) => ({ ...one, hypers: steprule.data.numbers(one, this.app.state), full: steprule.data.full(one) }));
    }

    train() {
      const methods = this.methods();
      this.told.textContent = methods.length ? "" : this.app.word("data-none");
      this.heard.textContent = "";
      if (!methods.length) return;
      this.begun = this.settings(methods);
      this.results.start(steprule.data.spec(this.app.state), methods);
      this.fill();
    }

    // What the numbers of a study depend on, as text.
    settings(methods) {
      const { axis, shown, ...spec } = steprule.data.spec(this.app.state);
      return JSON.stringify([spec, methods.map(({ key, text, hypers, entry }) => [key, text, Object.entries(hypers), entry.choices]).sort()]);
    }

    // Messages come faster than the screen is drawn; drawing long curves may take a fifth of the time.
    soon() {
      this.waiting ??= setTimeout(() => {
        const begun = performance.now();
        this.waiting = undefined;
        this.show();
        this.rest = Math.max(30, 4 * (performance.now() - begun));
      }, this.rest ?? 0);
    }

    render(changed) {
      const has = (...names) => names.some((name) => changed.has(name));
      if (has("lang")) this.translate();
      if (has("lang", "data", "picked", "text", "focus", "view", "stage", "scheme", "surface")) this.fill();
      this.lecture(this.app.state);
    }

    // A scene of the lecture trains at once, and again when its numbers change; what is only looked at changes nothing.
    lecture({ view, stage, scene, picked, data }) {
      const numbers = { ...data, axis: "", shown: "" }, made = view === "lecture" && stage === "data" ? JSON.stringify([scene, picked, numbers]) : "";
      this.box.classList.toggle("in-lecture", view === "lecture"); // where the scene's text takes room
      if (made && made !== this.trained) this.train();
      this.trained = made;
    }

    translate() {
      const { word } = this.app, { sizes } = this.packed;
      this.lead.textContent = word("data-lead", sizes.train, sizes.validation, sizes.test);
      for (const one of this.box.querySelectorAll("[data-word]")) one.textContent = word(one.dataset.word);
      for (const one of this.box.querySelectorAll("[data-label]")) one.setAttribute("aria-label", word(one.dataset.label));
    }

    fill() {
      const { inputs } = this, { word, state } = this.app, spec = steprule.data.spec(state), size = this.packed.sizes.train;
      for (const name of ["model", "hidden", "batch", "budget", "seed", "axis"]) inputs[name].value = spec[name];
      inputs.amount.value = spec[spec.budget];
      [inputs.amount.min, inputs.amount.max] = limits[spec.budget];
      inputs.final.checked = spec.final;
      for (const one of Object.values(inputs)) one.removeAttribute("aria-invalid");
      inputs.model.options[0].textContent = word("data-mlp", spec.hidden);
      this.hidden.hidden = spec.model !== "mlp";
      const counts = steprule.data.counts(size, spec), methods = this.methods();
      this.counts.textContent = [
        word("data-counts", size, spec.batch, counts.perEpoch, counts.iterations, short(counts.epochs), spec.final ? word("data-plus") : ""),
        ...(methods.some((one) => one.full) ? [word("data-gd")] : []),
      ].join(" ");
      this.list(methods);
      this.past.textContent = this.begun && this.begun !== this.settings(methods) ? word("data-past") : "";
      this.show();
    }

    // A row for each method; it stays, with what is typed in it, while the list is the same.
    list(methods) {
      const { word, state } = this.app, made = JSON.stringify([methods.map((one) => [one.key, one.title, one.look]), state.lang]);
      if (made !== this.made) {
        this.made = made;
        this.cells = new Map();
        this.rows.replaceChildren(...methods.map((one) => this.row(one)));
        this.inputs.shown.replaceChildren(...methods.map((one) => element("option", { value: one.key }, one.title)));
      }
      for (const one of methods) if (document.activeElement !== this.cells.get(one.key).rate) this.cells.get(one.key).rate.value = one.hypers.lr ?? "";
      if (!methods.length) this.told.textContent = word("data-none");
    }

    row(one) {
      const { word } = this.app, cells = ["iteration", "training", "validation", "test"].map(() => element("td"));
      const rate = element("input", { type: "text", inputMode: "decimal", class: "rate", "aria-label": word("data-rate-of", one.title), disabled: one.hypers.lr === undefined });
      rate.addEventListener("change", () => {
        const value = Number(rate.value.replace(",", ".")), wrong = rate.value.trim() === "" || !(value >= 0 && value <= 1e6);
        rate.setAttribute("aria-invalid", String(wrong));
        this.told.textContent = wrong ? word("data-wrong-rate") : "";
        if (!wrong) this.set({ [steprule.data.rateName(one.key)]: value });
      });
      this.cells.set(one.key, { rate, cells });
      return element("tr", {}, element("th", { scope: "row" }, steprule.sample(one.look), " ", one.title), element("td", {}, rate), ...cells);
    }

    /** Show how far the study is. */
    show() {
      const { results, app } = this, { word } = app, { status } = results, runs = [...results.runs.values()];
      this.pause.disabled = this.stop.disabled = status !== "runs" && status !== "paused";
      this.pause.textContent = word(status === "paused" ? "data-go" : "data-pause");
      for (const [key, { cells }] of this.cells) this.figures(results.runs.get(key), cells);
      this.draw(runs);
      this.digits();
      const lines = runs.flatMap((one) => one.epochs.map((told) => element("tr", {}, element("th", { scope: "row" }, one.title),
        ...[short(told.epochs), String(told.iteration), short(told.training, 4), percent(told.accuracy)].map((text) => element("td", {}, text)))));
      if (lines.length !== this.lines.childElementCount) this.lines.replaceChildren(...lines);
      if (status === "done" || status === "stopped") this.hear(runs);
    }

    figures(one, cells) {
      const { word } = this.app, last = one?.losses.length ?? 0;
      const texts = one?.counts ? [word("data-of", last, one.counts.total), short(one.losses.at(-1), 4), one.last ? percent(one.last.accuracy) : "", one.end?.accuracy === undefined ? "" : percent(one.end.accuracy)] : ["", "", "", ""];
      if (one?.trouble) texts[3] = one.trouble;
      cells.forEach((cell, at) => { if (cell.textContent !== texts[at]) cell.textContent = texts[at]; });
    }

    draw(runs) {
      const { results, app } = this, spec = results.spec ?? steprule.data.spec(app.state), { axis } = steprule.data.spec(app.state), size = this.packed.sizes.train;
      const key = axis === "epochs" ? "epochs" : "iterations", counts = steprule.data.counts(size, spec), more = spec.final ? 1 : 0;
      const known = runs.map((one) => one.counts).filter(Boolean), longest = Math.max(counts[key] + more, ...known.map((one) => one[key] + more));
      this.chart.draw(runs, axis, { size, batch: spec.batch }, longest, app.word(`data-${key}`));
    }

    digits() {
      const { app, results, inputs } = this, { shown } = steprule.data.spec(app.state), keys = [...inputs.shown.options].map((one) => one.value);
      inputs.shown.value = [shown, app.state.focus, keys[0]].find((key) => keys.includes(key)) ?? "";
      const told = results.runs.get(inputs.shown.value)?.last?.told ?? null, right = this.pictures.show(told, app.word);
      this.right.textContent = told ? app.word("data-right", right, told.length) : "";
    }

    hear(runs) {
      const { word } = this.app;
      const text = runs.map((one) => (one.trouble ? word("data-trouble", one.title, one.trouble) : one.end ? word("data-ended", one.title, percent(one.end.accuracy)) : `${one.title}: ${word("data-stopped")}`)).join("; ");
      if (this.heard.textContent !== text) this.heard.textContent = text;
    }
  }

  /**
   * Show the view of the digits in an element of the page.
   * @param {HTMLElement} box
   * @param {object} app `state`, `set(patch)`, `on(listener)`, `word(key, …)` and `rules()`
   */
  steprule.data.mount = (box, app) => (steprule.data.view = new View(box, app));
})((globalThis.steprule ??= {}));
