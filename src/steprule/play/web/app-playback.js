// Play, pause, step, scrub and speed.
(function (steprule) {
  "use strict";

  /** The clock of the page: it says how many iterations to go on, frame by frame. */
  steprule.Playback = class {
    /** @param {{store: object, announce: function}} page */
    constructor({ store, announce }) {
      this.store = store;
      this.announce = announce;
      this.playing = false;
      const on = (id, name, action) => document.getElementById(id).addEventListener(name, action);
      on("play", "click", () => this.toggle());
      on("back", "click", () => this.seek(store.state.t - 1));
      on("forward", "click", () => this.seek(store.state.t + 1));
      on("scrub", "input", (event) => this.seek(+event.target.value));
      on("speed", "input", (event) => store.set({ speed: Math.round(10 ** +event.target.value * 10) / 10 }));
      document.addEventListener("visibilitychange", () => document.hidden && this.pause());
    }

    /** Go to an iteration, and stand there. */
    seek(t) {
      this.pause();
      this.store.set({ t: Math.max(0, Math.min(this.store.state.steps, t)) });
      this.announce();
    }

    /** Play, from the start if the end is reached; or pause. */
    toggle() {
      if (this.playing) this.pause();
      else this.play();
    }

    play() {
      const { state } = this.store;
      this.playing = true;
      if (state.t >= state.steps) this.store.set({ t: 0 });
      this.last = null;
      this.part = 0;
      this.label();
      requestAnimationFrame((now) => this.tick(now));
    }

    pause() {
      if (!this.playing) return;
      this.playing = false;
      this.label();
      this.announce();
    }

    tick(now) {
      if (!this.playing) return;
      const begun = performance.now(), { state } = this.store;
      this.part += this.last === null ? 0 : (Math.min(100, now - this.last) / 1000) * state.speed;
      this.last = now;
      const steps = Math.floor(this.part);
      this.part -= steps;
      if (steps) this.store.set({ t: Math.min(state.steps, state.t + steps) });
      steprule.frames?.push(performance.now() - begun);
      if (this.store.state.t >= state.steps) this.pause();
      else requestAnimationFrame((next) => this.tick(next));
    }

    /** Name the button after what it does. */
    label() {
      document.getElementById("play").textContent = steprule.word(this.store.state.lang, this.playing ? "pause" : "play");
    }

    /** Show where the clock stands. */
    show(state) {
      const scrub = document.getElementById("scrub"), told = steprule.word(state.lang, "of-steps", state.t, state.steps);
      scrub.max = state.steps;
      scrub.value = state.t;
      scrub.setAttribute("aria-valuetext", told);
      document.getElementById("at").textContent = told;
      const speed = document.getElementById("speed");
      if (document.activeElement !== speed) speed.value = Math.log10(state.speed);
      speed.setAttribute("aria-valuetext", steprule.word(state.lang, "per-second", state.speed));
      this.label();
    }
  };
})(globalThis.steprule ??= {});
