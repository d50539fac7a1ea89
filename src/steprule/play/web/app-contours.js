// The contours of a surface: shades between levels, and lines by marching squares on the same grid.
(function (steprule) {
  "use strict";
  const CELL = 4;

  /** Return how coordinates become pixels: the window is seen whole, and its two axes have one scale. */
  steprule.frame = function ([left, right, low, high], width, height) {
    const scale = Math.min(width / (right - left), height / (high - low));
    const x0 = (left + right) / 2 - width / 2 / scale, y0 = (low + high) / 2 + height / 2 / scale;
    return {
      scale, width, height,
      px: (x) => (x - x0) * scale,
      py: (y) => (y0 - y) * scale,
      x: (px) => x0 + px / scale,
      y: (py) => y0 - py / scale,
    };
  };

  function grid(surface, frame) {
    const columns = Math.ceil(frame.width / CELL) + 1, rows = Math.ceil(frame.height / CELL) + 1;
    const values = new Float64Array(columns * rows);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++)
        values[row * columns + column] = surface.value(frame.x(column * CELL), frame.y(row * CELL));
    return { columns, rows, values };
  }

  // Levels factors apart above the least value, so that valleys show; or evenly, where there is no least.
  function levels(surface, { values }) {
    let least = Infinity, most = -Infinity;
    for (const value of values) {
      least = Math.min(least, value);
      most = Math.max(most, value);
    }
    if (surface.levels === "linear") return [...Array(22).keys()].map((at) => least + ((most - least) * (at + 1)) / 26);
    const base = Math.min(...surface.minima.map(([x, y]) => surface.value(x, y))), count = 15;
    return [...Array(count).keys()].map((at) => base + (most - base) * 10 ** (-4 * (1 - (at + 0.5) / count)));
  }

  function trace(path, { columns, rows, values }, level) {
    const cut = (a, b) => (level - a) / (b - a);
    for (let row = 0; row + 1 < rows; row++)
      for (let column = 0; column + 1 < columns; column++) {
        const at = row * columns + column;
        const a = values[at], b = values[at + 1], c = values[at + columns + 1], d = values[at + columns];
        const kind = (a > level) | ((b > level) << 1) | ((c > level) << 2) | ((d > level) << 3);
        if (kind === 0 || kind === 15) continue;
        const x = column * CELL, y = row * CELL, ends = [];
        if ((kind & 1) !== ((kind >> 1) & 1)) ends.push(x + CELL * cut(a, b), y);
        if (((kind >> 1) & 1) !== ((kind >> 2) & 1)) ends.push(x + CELL, y + CELL * cut(b, c));
        if (((kind >> 2) & 1) !== ((kind >> 3) & 1)) ends.push(x + CELL * cut(d, c), y + CELL);
        if (((kind >> 3) & 1) !== (kind & 1)) ends.push(x, y + CELL * cut(a, d));
        for (let end = 0; end + 3 < ends.length; end += 4) {
          path.moveTo(ends[end], ends[end + 1]);
          path.lineTo(ends[end + 2], ends[end + 3]);
        }
      }
  }

  // The shade of a value, from 0 in the deepest valley to 1: smooth in the number of levels below it.
  function shade(value, steps) {
    let low = 0;
    while (low < steps.length && value > steps[low]) low++;
    const before = steps[low - 1], after = steps[low];
    const part = before === undefined || after === undefined ? 0 : (value - before) / (after - before);
    return Math.min(1, (low + part) / steps.length);
  }

  const channels = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));

  /**
   * Return a canvas with the contours of a surface.
   * @param {object} surface
   * @param {object} frame as `steprule.frame` makes it
   * @param {number} ratio pixels of the screen to one of the page
   * @param {{deep: string, high: string, line: string}} colours as #rrggbb
   */
  steprule.contours = function (surface, frame, ratio, colours) {
    const canvas = Object.assign(document.createElement("canvas"), { width: frame.width * ratio, height: frame.height * ratio });
    const net = grid(surface, frame), steps = levels(surface, net), context = canvas.getContext("2d");
    const small = Object.assign(document.createElement("canvas"), { width: net.columns, height: net.rows });
    const image = small.getContext("2d").createImageData(net.columns, net.rows), deep = channels(colours.deep), high = channels(colours.high);
    net.values.forEach((value, at) => {
      const part = shade(value, steps);
      for (const channel of [0, 1, 2]) image.data[4 * at + channel] = deep[channel] + (high[channel] - deep[channel]) * part;
      image.data[4 * at + 3] = 255;
    });
    small.getContext("2d").putImageData(image, 0, 0);
    context.scale(ratio, ratio);
    context.imageSmoothingQuality = "high";
    // The centre of a small pixel is a corner of the grid.
    context.drawImage(small, -CELL / 2, -CELL / 2, net.columns * CELL, net.rows * CELL);
    const path = new Path2D();
    for (const level of steps) trace(path, net, level);
    context.strokeStyle = colours.line;
    context.lineWidth = 0.8;
    context.stroke(path);
    return canvas;
  };
})(globalThis.steprule ??= {});
