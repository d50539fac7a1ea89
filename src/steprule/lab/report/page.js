"use strict";
// The interactive chart of each task, the choice of optimisers for the whole page, and the switch of light and dark.
// Everything drawn is in the JSON of #data; text is only ever set as text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const shown = data.arms.map(() => true);
  const charts = [];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  const font = (size) => `600 ${size}px system-ui, sans-serif`;
  const ruler = document.createElement("canvas").getContext("2d");
  const breadth = (text) => { ruler.font = font(12); return ruler.measureText(text).width; };

  const word = (value, quantity) => {
    if (value == null) return "–";
    if (quantity.percent) return (100 * value).toFixed(1) + " %";
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(+value.toPrecision(3));
  };
  const tick = (value, percent) => {
    if (value == null) return "";
    if (percent) return +(100 * value).toPrecision(6) + " %";
    const size = Math.abs(value);
    if (size >= 1e6) return +(value / 1e6).toPrecision(4) + "M";
    if (size >= 1e4) return +(value / 1e3).toPrecision(4) + "k";
    return size !== 0 && size < 1e-3 ? value.toExponential().replace("e-", "e−") : String(+value.toPrecision(6));
  };

  // Numbers for a logarithmic axis: powers of ten where there are several, 1, 2 and 5 times them, or even steps.
  // uPlot's own never end below 1e-32.
  const powers = (low, high) => {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / 8)), found = [];
    for (let power = first - 1; power <= last; power++) {
      if (last - first >= 2) { if (power >= first && power % every === 0) found.push(+`1e${power}`); continue; }
      for (const times of [1, 2, 5]) if (+`${times}e${power}` >= low && +`${times}e${power}` <= high) found.push(+`${times}e${power}`);
    }
    if (found.length > 2) return found;
    const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough)), step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
    return [...Array(6).keys()].map((at) => (Math.ceil(low / step) + at) * step).filter((value) => value <= high);
  };
  const around = (u, low, high) => {
    if (low == null || high == null) return [null, null];
    const room = 10 ** Math.max(0.02, 0.04 * (Math.log10(high) - Math.log10(low)));
    return [low / room, high * room];
  };

  // Shapes of radius r around (x, y), by matplotlib's letters.
  const polygon = (path, x, y, r, turns) => {
    turns.forEach((turn, place) => {
      const angle = 2 * Math.PI * turn, at = [x + r * Math.sin(angle), y - r * Math.cos(angle)];
      place ? path.lineTo(...at) : path.moveTo(...at);
    });
    path.closePath();
  };
  const even = (count, start) => [...Array(count).keys()].map((place) => start + place / count);
  const cross = (path, x, y, r, turn) => {
    for (const angle of [turn, turn + Math.PI / 2]) {
      path.moveTo(x + r * Math.cos(angle), y + r * Math.sin(angle));
      path.lineTo(x - r * Math.cos(angle), y - r * Math.sin(angle));
    }
  };
  const shapes = {
    o: (path, x, y, r) => path.arc(x, y, 0.85 * r, 0, 2 * Math.PI),
    s: (path, x, y, r) => path.rect(x - 0.75 * r, y - 0.75 * r, 1.5 * r, 1.5 * r),
    "^": (path, x, y, r) => polygon(path, x, y, r, even(3, 0)),
    v: (path, x, y, r) => polygon(path, x, y, r, even(3, 0.5)),
    "<": (path, x, y, r) => polygon(path, x, y, r, even(3, 0.75)),
    ">": (path, x, y, r) => polygon(path, x, y, r, even(3, 0.25)),
    D: (path, x, y, r) => polygon(path, x, y, r, even(4, 0)),
    p: (path, x, y, r) => polygon(path, x, y, r, even(5, 0)),
    h: (path, x, y, r) => polygon(path, x, y, r, even(6, 0)),
    P: (path, x, y, r) => cross(path, x, y, r, 0),
    X: (path, x, y, r) => cross(path, x, y, r, Math.PI / 4),
    "*": (path, x, y, r) => { cross(path, x, y, r, 0); cross(path, x, y, r, Math.PI / 4); },
  };

  // Push heights apart in pairs until neighbours are `gap` apart, within [low, high].
  const spread = (wanted, gap, low, high) => {
    const order = wanted.map((_, place) => place).sort((a, b) => wanted[a] - wanted[b]);
    const placed = order.map((place) => wanted[place]);
    for (let round = 0; round < 100; round++) {
      for (let at = 0; at + 1 < placed.length; at++) {
        const push = Math.max(0, gap - (placed[at + 1] - placed[at])) / 2;
        placed[at] -= push;
        placed[at + 1] += push;
      }
      if (placed.length) {
        placed[0] = Math.max(placed[0], low);
        placed[placed.length - 1] = Math.min(placed[placed.length - 1], high);
      }
    }
    const result = [];
    order.forEach((place, at) => { result[place] = placed[at]; });
    return result;
  };

  class Chart {
    constructor(box) {
      this.box = box;
      this.task = data.tasks[+box.dataset.task];
      this.plot = box.querySelector(".plot");
      this.controls = Object.fromEntries([...box.querySelectorAll("[data-set]")].map((one) => [one.dataset.set, one]));
      this.outputs = new Map([...box.querySelectorAll("[data-arm]")].map((one) => [+one.dataset.arm, one.parentNode.querySelector("output")]));
      this.reset = box.querySelector('[data-do="reset"]');
      this.at = box.querySelector("[data-at]");
      box.hidden = false;
      this.usualScale();
      for (const [name, control] of Object.entries(this.controls))
        control.addEventListener("change", () => { if (name === "quantity") this.usualScale(); this.draw(); });
      this.reset.addEventListener("click", () => this.draw());
      box.querySelector('[data-do="all"]').addEventListener("click", () => choose(() => true));
      box.querySelector('[data-do="none"]').addEventListener("click", () => choose(() => false));
      new ResizeObserver(() => this.u && this.u.width !== this.plot.clientWidth && this.draw()).observe(this.plot);
    }
    get phase() { return this.controls.phase ? this.controls.phase.value : Object.keys(this.task.phases)[0]; }
    get x() { return this.controls.x.value; }
    get name() { return this.controls.quantity.value; }
    get quantity() { return this.task.quantities[this.name]; }
    usualScale() { this.controls.scale.value = this.quantity.log ? "log" : "linear"; }

    // One uPlot table of all lines: x, then the middle, low and high of each optimiser, then theory.
    assemble(log) {
      const clean = (values) => values.map((value) => (value == null || (log && value <= 0) ? null : value));
      const tables = [], series = [{}], bands = [];
      for (const line of this.task.phases[this.phase] || []) {
        const arm = data.arms[line.arm], ys = line.y[this.name];
        const known = line.x[this.x].map((value, place) => (value == null ? -1 : place)).filter((place) => place >= 0);
        if (!ys || !known.length) continue;
        const pick = (values) => known.map((place) => values[place]);
        const first = series.length, ink = colour(arm.colour), show = shown[line.arm];
        tables.push([pick(line.x[this.x]), ...ys.map((values) => clean(pick(values)))]);
        series.push({ label: arm.name, arm: line.arm, marker: arm.marker, stroke: ink, width: 2, dash: arm.dash, show, points: { show: false } });
        if (ys.length === 3) {
          for (const end of ["least", "greatest"]) series.push({ label: end, show, stroke: "transparent", points: { show: false } });
          bands.push({ series: [first + 2, first + 1], fill: ink + "22" });
        }
      }
      const distance = this.name === "distance", least = distance ? this.task.optimum : 0;
      if (this.x === "iteration" && (distance || this.name === "training_loss")) {
        for (const line of this.task.theory) {
          tables.push([line.x, clean(line.y.map((value) => (value == null ? null : value - least)))]);
          series.push({ label: line.label, theory: true, auto: false, stroke: colour("--muted"), width: 1.5, dash: [3, 3], points: { show: false } });
        }
      }
      return { table: tables.length ? uPlot.join(tables, tables.map((one) => one.map(() => 2))) : [[]], series, bands };
    }

    // Where the last value of each line of optimisers is.
    ends(u) {
      const found = [];
      u.series.forEach((one, place) => {
        if (!place || !one.show || (one.arm == null && !one.theory)) return;
        const y = u.data[place];
        for (let at = y.length - 1; at >= 0; at--) {
          if (y[at] == null || u.data[0][at] > u.scales.x.max) continue;
          found.push({ one, x: u.valToPos(u.data[0][at], "x", true), y: u.valToPos(y[at], "y", true) });
          break;
        }
      });
      return found;
    }

    decorate(u) {
      const { ctx, bbox } = u, ratio = devicePixelRatio, right = bbox.left + bbox.width;
      ctx.save();
      u.series.forEach((one, place) => {
        if (!one.show || one.arm == null) return;
        const path = new Path2D(), step = bbox.width / 7;
        let next = bbox.left + (step * ((one.arm % 7) + 0.5)) / 7;
        u.data[place].forEach((y, at) => {
          if (y == null) return;
          const x = u.valToPos(u.data[0][at], "x", true), top = u.valToPos(y, "y", true);
          if (x < next || x > right + 1 || top < bbox.top || top > bbox.top + bbox.height) return;
          const mark = new Path2D();
          shapes[one.marker](mark, x, top, 4.5 * ratio);
          path.addPath(mark);
          next = x + step;
        });
        ctx.setLineDash([]);
        ctx.strokeStyle = ctx.fillStyle = colour(data.arms[one.arm].colour);
        ctx.lineWidth = 1.8 * ratio;
        if (!"PX*".includes(one.marker)) ctx.fill(path);
        ctx.stroke(path);
      });
      this.label(u, ratio, right);
      ctx.restore();
    }

    label(u, ratio, right) {
      const { ctx, bbox } = u, ends = this.ends(u);
      if (!this.margin || ends.length > 24) return;
      const wanted = ends.map((end) => Math.min(Math.max(end.y, bbox.top), bbox.top + bbox.height));
      const heights = spread(wanted, 14.5 * ratio, bbox.top, bbox.top + bbox.height);
      ctx.font = font(12 * ratio);
      ctx.textBaseline = "middle";
      ctx.textAlign = "left";
      ends.forEach((end, place) => {
        ctx.fillStyle = ctx.strokeStyle = end.one.arm == null ? colour("--muted") : colour(data.arms[end.one.arm].colour);
        ctx.lineWidth = ratio;
        ctx.beginPath();
        ctx.moveTo(Math.min(end.x, right), wanted[place]);
        ctx.lineTo(right + 8 * ratio, heights[place]);
        ctx.stroke();
        ctx.fillText(end.one.label, right + 11 * ratio, heights[place]);
      });
    }

    // The values under the pointer stand beside the names, not over the lines.
    read(u) {
      const at = u.cursor.idx;
      for (const output of this.outputs.values()) output.textContent = "";
      this.at.textContent = at == null ? "" : `at ${tick(u.data[0][at])} ${this.controls.x.selectedOptions[0].textContent}`;
      if (at == null) return;
      u.series.forEach((one, place) => {
        if (one.arm == null || !one.show) return;
        let near = at;
        while (near > 0 && u.data[place][near] == null) near--;
        this.outputs.get(one.arm).textContent = word(u.data[place][near], this.quantity);
      });
    }

    draw() {
      if (this.u) this.u.destroy();
      const log = this.controls.scale.value === "log", quantity = this.quantity, width = this.plot.clientWidth;
      if (!width) return;
      const { table, series, bands } = this.assemble(log);
      const named = series.filter((one) => one.show !== false && (one.arm != null || one.theory));
      this.margin = width < 520 ? 0 : 22 + Math.max(0, ...named.map((one) => breadth(one.label)));
      const axis = { stroke: colour("--muted"), font: "12px system-ui, sans-serif", grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
      const unit = quantity.unit && !quantity.percent ? ` (${quantity.unit})` : "";
      const vertical = { ...axis, size: 58, label: quantity.label + unit, labelFont: "12px system-ui, sans-serif", labelSize: 20, values: (u, splits) => splits.map((one) => tick(one, quantity.percent)) };
      if (log) Object.assign(vertical, { splits: (u, axis, low, high) => powers(low, high), filter: (u, splits) => splits });
      const horizontal = { ...axis, size: 34, label: this.controls.x.selectedOptions[0].textContent, labelFont: "12px system-ui, sans-serif", labelSize: 20, values: (u, splits) => splits.map((one) => tick(one)) };
      const whole = (u) => { this.reset.hidden = !u.data[0].length || (u.scales.x.min <= u.data[0][0] && u.scales.x.max >= u.data[0][u.data[0].length - 1]); };
      const options = {
        width, height: this.plot.clientHeight, series, bands, legend: { show: false }, axes: [horizontal, vertical],
        padding: [12, this.margin || 12, 0, 0],
        scales: { x: { time: false }, y: { distr: log ? 3 : 1, range: log ? around : this.linear(quantity) } },
        cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false }, focus: { prox: 24 } },
        focus: { alpha: 0.35 },
        hooks: { draw: [(u) => this.decorate(u)], setCursor: [(u) => this.read(u)], setScale: [(u, key) => key === "x" && whole(u)] },
      };
      this.u = new uPlot(options, table, this.plot);
      this.read(this.u);
    }

    // A score in per cent starts near chance: what happens at the end is what one wants to see.
    linear(quantity) {
      if (!quantity.percent) return undefined;
      const ends = (this.task.phases[this.phase] || []).map((line) => {
        const known = (line.y[this.name] || [[]])[0].filter((value) => value != null);
        return known.length ? known[known.length - 1] : 1;
      });
      return (u, low, high) => [Math.max(Math.min(low, 1), Math.floor(10 * Math.min(1, ...ends)) / 10 - 0.2), Math.min(1.005, high + 0.01)];
    }
  }

  const choose = (rule) => {
    shown.forEach((_, arm) => { shown[arm] = rule(arm, shown[arm]); });
    for (const box of document.querySelectorAll("[data-arm]")) box.checked = shown[+box.dataset.arm];
    shown.forEach((visible, arm) => {
      for (const part of document.querySelectorAll(`svg .of-${arm}`)) part.style.display = visible ? "" : "none";
    });
    charts.forEach((chart) => chart.draw());
  };

  const scheme = document.getElementById("scheme");
  const isDark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : dark.matches);
  const name = () => { scheme.textContent = isDark() ? "Light" : "Dark"; charts.forEach((chart) => chart.draw()); };
  scheme.hidden = false;
  scheme.addEventListener("click", () => { root.dataset.scheme = isDark() ? "light" : "dark"; name(); });
  dark.addEventListener("change", name);
  root.classList.add("scripted");
  for (const box of document.querySelectorAll(".explorer")) charts.push(new Chart(box));
  for (const box of document.querySelectorAll("[data-arm]"))
    box.addEventListener("change", () => choose((arm, was) => (arm === +box.dataset.arm ? box.checked : was)));
  name();
})();
