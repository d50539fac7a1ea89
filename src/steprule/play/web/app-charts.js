// The four charts: what each method's numbers are, iteration by iteration. What lies ahead of the playhead is pale.
(function (steprule) {
  "use strict";
  const CHARTS = ["loss", "length", "norm", "effect"], FONT = "12px system-ui, sans-serif", LEAST = 1e-16;

  // Powers of ten for a logarithmic axis, a few of them.
  function powers(low, high) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / 4)), found = [];
    for (let power = first; power <= last; power++) if (power % every === 0) found.push(+`1e${power}`);
    return found.length > 1 ? found : [low, high].map((value) => +value.toPrecision(2));
  }

  const tick = (value) => (value >= 1e4 || value < 1e-2 ? value.toExponential(0).replace("e+", "e").replace("-", "−") : String(+value.toPrecision(3)));

  // A logarithmic scale has no place for what is not above zero.
  const positive = (values, length, base = 0) =>
    Array.from({ length }, (_, at) => { const value = Math.abs(values[at] - base); return value > LEAST && value < 1e200 ? value : null; });

  /** The charts in a box. */
  steprule.Charts = class {
    /**
     * @param {HTMLElement} box
     * @param {(t: number) => void} sought called with the iteration that is pointed at
     */
    constructor(box, sought) {
      this.plots = CHARTS.map((name) => ({ name, figure: box.querySelector(`[data-chart="${name}"]`) }));
      this.sought = sought;
      this.made = "";
      for (const one of this.plots) {
        one.place = one.figure.querySelector(".chart");
        one.place.addEventListener("pointerdown", (event) => {
          one.place.setPointerCapture(event.pointerId);
          this.seek(one, event);
        });
        one.place.addEventListener("pointermove", (event) => event.buttons & 1 && this.seek(one, event));
      }
      new ResizeObserver(() => this.latest && this.draw(...this.latest)).observe(box);
    }

    seek(one, event) {
      if (!one.plot) return;
      const { left } = one.plot.over.getBoundingClientRect();
      this.sought(Math.max(0, Math.round(one.plot.posToVal(event.clientX - left, "x"))));
    }

    // The lines of a chart: x, then one of each method; of the effective step, two of the method in hand.
    lines(name, trajectories, focus, surface) {
      const length = this.steps + 1, ran = trajectories.filter((one) => one.rule);
      const line = (one, values, more = {}) => ({ one, values: positive(values, length, more.base), ...more });
      if (name === "effect") return focus?.rule ? focus.effect.map((values, axis) => line(focus, values, { dash: axis ? [2, 3] : [] })) : [];
      if (name !== "loss") return ran.map((one) => line(one, one[name]));
      const base = Math.min(...surface.minima.map(([x, y]) => surface.value(x, y)));
      return ran.map((one) => line(one, one.loss, { base }));
    }

    /** Draw the charts of some trajectories; nothing is done if they are those that are drawn. */
    draw(trajectories, focus, surface, steps, key) {
      this.latest = [trajectories, focus, surface, steps, key];
      const widths = this.plots.map((one) => [one.place.clientWidth, one.place.clientHeight]);
      const made = [key, widths, steprule.colour("--paper"), devicePixelRatio].join();
      if (made === this.made || !widths[0][0]) return;
      this.made = made;
      this.steps = steps;
      for (const one of this.plots) this.plot(one, this.lines(one.name, trajectories, focus, surface));
      this.show(this.t ?? 0);
    }

    plot(one, lines) {
      one.plot?.destroy();
      const axis = { stroke: steprule.colour("--muted"), font: FONT, grid: { stroke: steprule.colour("--grid"), width: 1 }, ticks: { show: false } };
      const around = (u, low, high) => (low == null || !(high > 0) ? [0.1, 1] : [low / 1.3, high * 1.3]);
      const options = {
        width: one.place.clientWidth,
        height: one.place.clientHeight,
        legend: { show: false },
        padding: [8, 14, 0, 0],
        cursor: { show: false },
        scales: { x: { time: false, range: [0, this.steps] }, y: { distr: 3, range: around } },
        axes: [
          { ...axis, size: 24, space: 60 },
          { ...axis, size: 46, splits: (u, place, low, high) => powers(low, high), filter: (u, splits) => splits, values: (u, splits) => splits.map(tick) },
        ],
        series: [{}, ...lines.map((line) => ({
          stroke: steprule.colour(line.one.look.colour), width: line.one.look.width - 0.25,
          dash: line.dash ?? line.one.look.dash, points: { show: false },
        }))],
      };
      one.plot = new uPlot(options, [[...Array(this.steps + 1).keys()], ...lines.map((line) => line.values)], one.place);
      one.future = one.plot.over.appendChild(steprule.element("div", { class: "future" }));
    }

    /** Move the playhead. */
    show(t) {
      this.t = t;
      for (const { future } of this.plots) if (future) future.style.transform = `scaleX(${1 - Math.min(1, t / this.steps)})`;
    }
  };
})(globalThis.steprule ??= {});
