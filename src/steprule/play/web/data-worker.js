// The worker in which networks learn, so that the page stays awake. One worker has all methods: they take turns, so that
// their curves grow side by side. Without a worker's scope this file only defines the loop, which is how it is tested.
(function (steprule) {
  "use strict";
  steprule.data ??= {};
  const SLICE = 30, SHOWN = 24; // milliseconds between two looks at what the page says; digits whose labels are told

  /** A study: a run for each method, in turns. `tell` is called with messages, objects that can be cloned. */
  steprule.data.Study = class {
    /**
     * @param {object} sets what `steprule.data.unpack` returns
     * @param {object} spec model, hidden, batch, budget, epochs, iterations, seed, final
     * @param {{key: string, text: string, choices: object, hypers: object, full: boolean}[]} methods
     * @param {(message: object) => void} tell
     */
    constructor(sets, spec, methods, tell) {
      this.tell = tell;
      this.runs = methods.map((method) => ({ key: method.key, losses: [], window: [], run: this.begin(sets, spec, method) }));
    }

    begin(sets, spec, method) {
      try {
        const { rule, errors } = steprule.build(method.text, method.choices);
        if (!rule) throw new Error(errors[0]?.what ?? method.text);
        const run = new steprule.data.Training(sets, spec, { ...method, rule });
        const { loss, accuracy, told } = run.evaluate("validation");
        this.tell({ type: "began", key: method.key, counts: run.counts, loss, accuracy, told: told.slice(0, SHOWN) });
        return run;
      } catch (error) {
        this.tell({ type: "end", key: method.key, trouble: String(error.what ?? error.message), iteration: 0, epochs: 0 });
        return null;
      }
    }

    /** Make one iteration of every run that is not over; return whether there was one. */
    turn() {
      let went = false;
      for (const one of this.runs) {
        if (!one.run) continue;
        went = true;
        const loss = one.run.next();
        if (loss !== null) one.losses.push(loss), one.window.push(loss);
        if (one.run.epochEnds || one.run.over) this.epoch(one);
        if (one.run.over) this.end(one);
      }
      return went;
    }

    /** Send the losses since the last time. */
    report() {
      for (const one of this.runs) {
        if (!one.losses.length) continue;
        this.tell({ type: "losses", key: one.key, losses: one.losses });
        one.losses = [];
      }
    }

    epoch(one) {
      this.report();
      if (!one.window.length) return;
      const { loss, accuracy, told } = one.run.evaluate("validation");
      const training = one.window.reduce((sum, value) => sum + value, 0) / one.window.length;
      one.window = [];
      this.tell({ type: "epoch", key: one.key, iteration: one.run.done, epochs: one.run.epochs, training, loss, accuracy, told: told.slice(0, SHOWN) });
    }

    // The test set is met once, at the end.
    end(one) {
      const { run, key } = one, test = run.trouble ? null : run.evaluate("test"), training = run.trouble ? null : run.evaluate("train");
      this.tell({
        type: "end", key, trouble: run.trouble, iteration: run.done, epochs: run.epochs,
        accuracy: test?.accuracy, loss: test?.loss, training: training?.loss,
      });
      one.run = null;
    }
  };

  if (typeof WorkerGlobalScope === "undefined" || !(globalThis instanceof WorkerGlobalScope)) return;
  let sets, study, paused = false, waiting = 0;

  function slice() {
    waiting = 0;
    const until = performance.now() + SLICE;
    let goes = true;
    while (goes && performance.now() < until) goes = study.turn();
    study.report();
    if (goes) waiting = setTimeout(slice);
    else postMessage({ type: "done" });
  }

  addEventListener("message", ({ data }) => {
    if (data.packed) sets = steprule.data.unpack(data.packed);
    if (data.type === "start") study = new steprule.data.Study(sets, data.spec, data.methods, (message) => postMessage(message));
    paused = data.type === "pause";
    clearTimeout(waiting);
    if (!paused) waiting = setTimeout(slice);
  });
})((globalThis.steprule ??= {}));
