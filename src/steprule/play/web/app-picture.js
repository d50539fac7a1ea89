// The picture: contours, trajectories up to an iteration, vectors of one method, and the handle of the start.
(function (steprule) {
  "use strict";

  /** The canvas with a surface. It is told what to draw and draws it; `app.js` says when. */
  steprule.Picture = class {
    /**
     * @param {HTMLElement} box
     * @param {(start: number[]) => void} moved called with a new start
     */
    constructor(box, moved) {
      this.box = box;
      this.canvas = box.querySelector("canvas");
      this.handle = box.querySelector(".handle");
      this.context = this.canvas.getContext("2d");
      this.moved = moved;
      this.made = "";
      this.listen();
    }

    listen() {
      const move = (event) => {
        const { left, top } = this.canvas.getBoundingClientRect(), round = (value) => Math.round(value * 1000) / 1000;
        this.moved([round(this.frame.x(event.clientX - left)), round(this.frame.y(event.clientY - top))]);
      };
      this.handle.addEventListener("pointerdown", (event) => {
        this.handle.setPointerCapture(event.pointerId);
        this.dragged = true;
      });
      this.handle.addEventListener("pointermove", (event) => this.dragged && move(event));
      for (const name of ["pointerup", "pointercancel"]) this.handle.addEventListener(name, () => { this.dragged = false; });
      this.canvas.addEventListener("dblclick", move);
      this.handle.addEventListener("keydown", (event) => {
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        const step = (event.shiftKey ? 1 : 10) / this.frame.scale;
        this.moved(way.map((part, axis) => Math.round((this.start[axis] + part * step) * 1000) / 1000));
      });
    }

    // The surface again, if it, its size or the scheme is another.
    prepare(surface, key) {
      const width = this.canvas.clientWidth, height = this.canvas.clientHeight, ratio = Math.min(2, devicePixelRatio || 1);
      const made = [key, width, height, ratio, steprule.colour("--paper")].join();
      if (made === this.made || !width) return;
      this.made = made;
      this.frame = steprule.frame(surface.window, width, height);
      this.ratio = ratio;
      this.canvas.width = width * ratio;
      this.canvas.height = height * ratio;
      this.ground = steprule.contours(surface, this.frame, ratio, {
        deep: steprule.colour("--deep"), high: steprule.colour("--high"), line: steprule.colour("--contour"),
      });
      this.inks = Object.fromEntries(["--ink", "--paper", "--accent", "--muted", ...[...Array(8).keys()].map((at) => `--c${at}`)].map((name) => [name, steprule.colour(name)]));
    }

    /** Draw everything up to iteration t. */
    draw({ surface, key, start, t, trajectories, focus, words }) {
      this.prepare(surface, key);
      if (!this.frame) return;
      this.start = start;
      const { context, frame, ratio } = this;
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.drawImage(this.ground, 0, 0);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.minima(surface);
      const ordered = [...trajectories].sort((a, b) => (a.key === focus?.key) - (b.key === focus?.key));
      for (const one of ordered) if (one.rule) this.line(one, t);
      for (const one of ordered) if (one.rule) this.head(one, t);
      if (focus) this.vectors(focus, t, words);
      this.handle.style.transform = `translate(${frame.px(start[0])}px, ${frame.py(start[1])}px)`;
    }

    minima(surface) {
      const { context, frame } = this, path = new Path2D();
      for (const [x, y] of surface.minima) steprule.mark(path, "P", frame.px(x), frame.py(y), 6);
      this.halo(path, this.inks["--ink"], 1.6);
    }

    // A line with an edge of paper, so that it is seen on any ground.
    halo(path, colour, width) {
      const { context } = this;
      context.setLineDash([]);
      context.strokeStyle = this.inks["--paper"];
      context.lineWidth = width + 2.4;
      context.stroke(path);
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.stroke(path);
    }

    line(one, t) {
      const { context, frame } = this, last = Math.min(t, one.end), far = 1e4;
      context.beginPath();
      for (let at = 0; at <= last; at++) {
        const x = frame.px(one.at[2 * at]), y = frame.py(one.at[2 * at + 1]);
        context.lineTo(Math.max(-far, Math.min(far, x)), Math.max(-far, Math.min(far, y)));
      }
      context.lineJoin = "round";
      context.setLineDash(one.look.dash.map((length) => length * 1.2));
      context.strokeStyle = this.inks[one.look.colour];
      context.lineWidth = one.look.width;
      context.stroke();
    }

    head(one, t) {
      const { context, frame } = this, at = Math.min(t, one.end), path = new Path2D(), colour = this.inks[one.look.colour];
      const x = frame.px(one.at[2 * at]), y = frame.py(one.at[2 * at + 1]);
      steprule.mark(path, one.look.marker, x, y, 7);
      this.halo(path, colour, 2);
      context.fillStyle = colour;
      if (!"PX*".includes(one.look.marker)) context.fill(path);
    }

    // Of the step that led to iteration t: the gradient where it was taken, the look-ahead point, the moments.
    vectors(one, t, words) {
      if (t < 1 || t > one.end) return;
      const read = (array) => [array[2 * t], array[2 * t + 1]], before = [one.at[2 * t - 2], one.at[2 * t - 1]];
      const point = read(one.point), arrows = [], ahead = Math.hypot(point[0] - before[0], point[1] - before[1]) > 0;
      const { m, s } = one.slots, minus = ([x, y]) => [-x, -y];
      arrows.push({ from: point, way: minus(read(one.gradient)), text: words.g, colour: "--muted" });
      if (m) arrows.push({ from: before, way: minus(read(m)), text: words.m, colour: "--accent" });
      if (s) arrows.push({ from: before, way: read(s).map((value) => Math.sqrt(Math.max(0, value))), text: words.s, colour: "--ink" });
      const longest = Math.max(...arrows.map(({ way }) => Math.hypot(...way)));
      this.labels = [];
      if (ahead) this.ahead(before, point, words.point);
      if (longest > 0 && longest < Infinity) for (const arrow of arrows) this.arrow(arrow, 84 / longest);
    }

    ahead(before, point, text) {
      const { context, frame } = this, path = new Path2D(), ring = new Path2D();
      path.moveTo(frame.px(before[0]), frame.py(before[1]));
      path.lineTo(frame.px(point[0]), frame.py(point[1]));
      context.setLineDash([2, 4]);
      context.strokeStyle = this.inks["--ink"];
      context.lineWidth = 1.6;
      context.stroke(path);
      steprule.mark(ring, "D", frame.px(point[0]), frame.py(point[1]), 6);
      this.halo(ring, this.inks["--ink"], 1.8);
      this.label(text, frame.px(point[0]) + 10, frame.py(point[1]) + 14, "--ink");
    }

    arrow({ from, way, text, colour }, scale) {
      const { frame } = this, length = Math.hypot(...way) * scale;
      if (!(length > 2)) return;
      const x = frame.px(from[0]), y = frame.py(from[1]), dx = way[0] * scale, dy = -way[1] * scale, path = new Path2D();
      const [ux, uy] = [dx / length, dy / length], size = Math.min(9, length / 2);
      path.moveTo(x, y);
      path.lineTo(x + dx, y + dy);
      path.moveTo(x + dx - size * (ux - 0.5 * uy), y + dy - size * (uy + 0.5 * ux));
      path.lineTo(x + dx, y + dy);
      path.lineTo(x + dx - size * (ux + 0.5 * uy), y + dy - size * (uy - 0.5 * ux));
      this.halo(path, this.inks[colour], 2.2);
      this.label(text, x + dx + 9 * ux, y + dy + 9 * uy, colour, ux);
    }

    // A label moves down until it covers no other.
    label(text, x, y, colour, way = 1) {
      const { context } = this, room = this.canvas.clientWidth;
      context.font = "600 12px system-ui, sans-serif";
      const { width } = context.measureText(text);
      x = way >= 0 ? Math.max(4, Math.min(x, room - 4 - width)) : Math.min(room - 4, Math.max(x, 4 + width)); // all of it is seen
      while (this.labels?.some(([left, top]) => Math.abs(left - x) < 150 && Math.abs(top - y) < 15)) y += 4;
      this.labels?.push([x, y]);
      context.textBaseline = "middle";
      context.textAlign = way >= 0 ? "left" : "right";
      context.lineJoin = "round";
      context.setLineDash([]);
      context.strokeStyle = this.inks["--paper"];
      context.lineWidth = 4;
      context.strokeText(text, x, y);
      context.fillStyle = this.inks[colour];
      context.fillText(text, x, y);
    }
  };
})(globalThis.steprule ??= {});
