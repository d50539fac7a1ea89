// What the page knows of a study on the digits: the worker that trains, and what has come from it so far.
(function (steprule) {
  "use strict";
  steprule.data ??= {};

  // What a worker needs of the page's scripts: to read a rule, to run it, and to train.
  const PARTS = /^(facts|(editor|random|language[\w-]*|run|data-(digits|model|training|worker))\.js)$/;

  /** The model and budget in which the page begins, and what each may be. */
  steprule.data.beginning = Object.freeze({
    model: "mlp", hidden: 32, batch: 32, budget: "epochs", epochs: 5, iterations: 200, seed: 0, final: false, axis: "iterations", shown: "",
  });

  /** The least and the greatest of each number. */
  steprule.data.limits = Object.freeze({
    hidden: [1, 256], batch: [1, 1077], epochs: [1, 100], iterations: [1, 20000], seed: [0, 2 ** 31 - 1],
  });

  // Learning rates that suit the digits; those of the surfaces do not.
  const RATES = { gd: 0.5, sgd: 0.5, momentum: 0.5, nesterov: 0.5, adagrad: 0.05, rmsprop: 0.005, adam: 0.005 };

  /** Under which name the state keeps the learning rate of a method of the list. */
  steprule.data.rateName = (key) => `lr_${key.replace(/\W/g, "_")}`;

  /** Return the settings of a study in a state: what is not there, or not right, is as in the beginning. */
  steprule.data.spec = function (state) {
    const found = { ...steprule.data.beginning }, { limits } = steprule.data;
    for (const [name, value] of Object.entries(state.data ?? {})) {
      const most = Object.hasOwn(limits, name) ? limits[name] : null;
      if (most ? Number.isInteger(value) && value >= most[0] && value <= most[1] : typeof value === typeof found[name]) found[name] = value;
    }
    if (!["mlp", "logreg"].includes(found.model)) found.model = "mlp";
    if (!["epochs", "iterations"].includes(found.budget)) found.budget = "epochs";
    if (!["epochs", "iterations"].includes(found.axis)) found.axis = "iterations";
    return found;
  };

  /** Return the numbers of a method on the digits: the learning rate that was set here, else what suits them. */
  steprule.data.numbers = function (one, state) {
    const set = state.data?.[steprule.data.rateName(one.key)], suited = one.entry.rule === "mine" ? undefined : RATES[one.entry.rule];
    const lr = typeof set === "number" ? set : suited;
    const chosen = (hyper) => (hyper.name !== "lr" ? steprule.given(one.entry, hyper) : steprule.admits(hyper, lr) ? lr : undefined);
    return Object.fromEntries(one.rule.hypers.map((hyper) => [hyper.name, chosen(hyper) ?? hyper.value]));
  };

  /** Whether one iteration of a method is one pass over the data: the board's gradient descent. */
  steprule.data.full = (one) => one.entry.rule === "gd";

  /** A study on the page: it starts a worker, and keeps what the worker tells. */
  steprule.data.Results = class {
    /** @param {() => void} changed called after each message */
    constructor(changed) {
      this.changed = changed;
      this.runs = new Map();
      this.status = "new";
    }

    /** Begin a study anew. */
    start(spec, methods) {
      this.stop();
      this.spec = spec;
      this.runs = new Map(methods.map((one) => [one.key, { ...one, losses: [], epochs: [], status: "runs" }]));
      this.status = "runs";
      const packed = JSON.parse(document.getElementById("digits").textContent);
      this.worker = this.made();
      const sent = methods.map(({ key, text, hypers, full, entry }) => ({ key, text, hypers, full, choices: { ...entry.choices } }));
      this.worker.postMessage({ type: "start", spec, methods: sent, packed });
      this.changed();
    }

    made() {
      const scripts = [...document.scripts].filter((one) => PARTS.test(one.id)).map((one) => one.textContent);
      const place = URL.createObjectURL(new Blob([scripts.join("\n;\n")], { type: "text/javascript" })), worker = new Worker(place);
      worker.addEventListener("message", () => URL.revokeObjectURL(place), { once: true });
      worker.onmessage = ({ data }) => this.take(data);
      worker.onerror = (event) => this.fail(event.message);
      return worker;
    }

    pause() {
      this.worker.postMessage({ type: "pause" });
      this.status = "paused";
      this.changed();
    }

    go() {
      this.worker.postMessage({ type: "go" });
      this.status = "runs";
      this.changed();
    }

    /** End the study where it is. Its worker ends at once; the next study has a new one. */
    stop() {
      this.worker?.terminate();
      this.worker = null;
      if (this.status === "runs" || this.status === "paused") this.status = "stopped";
      for (const one of this.runs.values()) if (one.status === "runs") one.status = "stopped";
      this.changed();
    }

    fail(told) {
      for (const one of this.runs.values()) if (one.status === "runs") Object.assign(one, { status: "ended", trouble: told });
      this.stop();
    }

    /** Take a message of the worker. */
    take(message) {
      const one = this.runs.get(message.key);
      if (message.type === "done") this.status = "done";
      if (message.type === "began") Object.assign(one, { counts: message.counts, last: message });
      if (message.type === "losses") one.losses.push(...message.losses);
      if (message.type === "epoch") {
        one.epochs.push(message);
        one.last = message;
      }
      if (message.type === "end") Object.assign(one, { status: "ended", end: message, trouble: message.trouble });
      this.changed();
    }
  };
})((globalThis.steprule ??= {}));
