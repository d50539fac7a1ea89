// The losses of batches, as they come: pale as they are, and in full their running mean over a quarter of an epoch, or
// over more of it where there are many.
(function (steprule) {
  "use strict";
  steprule.data ??= {};
  const FONT = "12px system-ui, sans-serif";

  /** Return the means over the last `width` values, the first ones over those that there are. */
  steprule.data.smoothed = function (values, width) {
    let sum = 0;
    return values.map((value, at) => {
      sum += value - (at >= width ? values[at - width] : 0);
      return sum / Math.min(at + 1, width);
    });
  };

  const LEVELS = [1, 2, 5];

  // Numbers for a logarithmic axis: 1, 2 and 5 times powers of ten, or powers alone if there are many.
  function levels(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const times of high / low > 1e3 ? [1] : LEVELS) if (times * 10 ** power >= low && times * 10 ** power <= high) found.push(+`${times}e${power}`);
    return found.length > 1 ? found : [low, high].map((value) => +value.toPrecision(2));
  }

  /** The chart in a box. */
  steprule.data.Chart = class {
    /** @param {HTMLElement} box */
    constructor(box) {
      this.box = box;
      new ResizeObserver(() => this.drawn && this.draw(...this.drawn)).observe(box);
    }

    lines(one, axis, size) {
      const { losses, counts } = one, places = losses.map((_, at) => at + 1);
      // The final full-batch iteration is an epoch by itself.
      const seen = (iteration) => {
        if (counts.perEpoch === 1) return iteration;
        const within = Math.min(iteration, counts.iterations), whole = Math.floor(within / counts.perEpoch);
        const part = Math.min(1, ((within % counts.perEpoch) * this.batch) / size);
        return whole + part + (iteration > counts.iterations ? 1 : 0);
      };
      const x = axis === "epochs" ? places.map(seen) : places, width = Math.max(1, Math.round(Math.max(counts.perEpoch / 4, counts.total / 60)));
      // The board's final iteration is seen as a point of its own.
      const last = counts.total > counts.iterations && losses.length === counts.total ? [[x.at(-1)], [losses.at(-1)]] : [[], []];
      return [[x, losses], [x, steprule.data.smoothed(losses, width)], last];
    }

    /**
     * Draw the losses of some runs.
     * @param {object[]} runs each with losses, counts and look
     * @param {string} axis iterations or epochs
     * @param {{size: number, batch: number}} counted the examples, and those of a batch
     * @param {number} longest how far the axis goes
     * @param {string} label what the axis is called
     */
    draw(runs, axis, counted, longest, label) {
      this.drawn = [runs, axis, counted, longest, label];
      this.batch = counted.batch;
      this.plot?.destroy();
      this.plot = null;
      const begun = runs.filter((one) => one.counts && one.losses.length);
      if (!this.box.clientWidth) return;
      const tables = begun.flatMap((one) => this.lines(one, axis, counted.size));
      const data = tables.length ? uPlot.join(tables) : [[0, longest], [null, null]];
      this.plot = new uPlot(this.options(begun, longest, label), data, this.box);
    }

    options(runs, longest, label) {
      const line = { stroke: steprule.colour("--muted"), font: FONT, grid: { stroke: steprule.colour("--grid"), width: 1 }, ticks: { show: false } };
      const around = (_, low, high) => (low == null || !(high > 0) ? [0.1, 3] : [low / 1.15, high * 1.15]);
      const series = runs.flatMap(({ look }) => {
        const stroke = steprule.colour(look.colour), one = { stroke, spanGaps: true, points: { show: false } };
        const final = { stroke, width: 0, points: { show: true, size: 11, stroke, fill: steprule.colour("--paper"), width: 3 } };
        return [{ ...one, width: 0.8, alpha: runs.length > 2 ? 0.16 : 0.35 }, { ...one, width: look.width + 0.5, dash: look.dash }, final];
      });
      return {
        width: this.box.clientWidth, height: this.box.clientHeight, legend: { show: false }, cursor: { show: false }, padding: [8, 12, 0, 0],
        scales: { x: { time: false, range: [0, longest] }, y: { distr: 3, range: around } },
        axes: [
          { ...line, size: 22, space: 70, label, labelSize: 18, labelFont: FONT, labelGap: 0, gap: 4 },
          { ...line, size: 48, splits: (_, place, low, high) => levels(low, high), filter: (_, splits) => splits, values: (_, splits) => splits.map((value) => steprule.short(value)) },
        ],
        series: [{}, ...(series.length ? series : [{ points: { show: false } }])],
      };
    }
  };
})((globalThis.steprule ??= {}));
