// How a method is drawn: a colour, a dash and a marker, as in the lab's report.
(function (steprule) {
  "use strict";
  const { dashes, markers, colours } = steprule.looks;

  /**
   * Return the look of a method: that of its place among the board's, or one behind them.
   * @param {string} key
   * @param {string[]} keys those that run, in their order
   */
  steprule.look = function (key, keys) {
    const own = steprule.board.indexOf(key), others = keys.filter((one) => !steprule.board.includes(one));
    const place = own >= 0 ? own : steprule.board.length + Math.max(0, others.indexOf(key));
    const dash = dashes[(place + Math.floor(place / colours)) % dashes.length];
    return { place, colour: `--c${place % colours}`, dash: key === "mine" ? [] : dash, marker: markers[place % markers.length], width: key === "mine" ? 3 : 2 };
  };

  const turns = { "^": [3, 0], v: [3, 0.5], "<": [3, 0.75], ">": [3, 0.25], D: [4, 0], p: [5, 0], h: [6, 0] };

  // The corners of a marker of radius 1, as strokes of an open or closed line.
  function strokes(marker) {
    const cross = (turn) => [0, 0.25].map((more) => [turn + more, turn + more + 0.5].map((angle) => [Math.sin(2 * Math.PI * angle), Math.cos(2 * Math.PI * angle)]));
    if (marker === "P") return cross(0);
    if (marker === "X") return cross(0.125);
    if (marker === "*") return [...cross(0), ...cross(0.125)];
    if (marker === "s") return [[[-0.78, -0.78], [0.78, -0.78], [0.78, 0.78], [-0.78, 0.78], [-0.78, -0.78]]];
    const [count, start] = turns[marker] ?? [24, 0], size = turns[marker] ? 1 : 0.85;
    return [[...Array(count + 1).keys()].map((at) => [size * Math.sin(2 * Math.PI * (start + at / count)), -size * Math.cos(2 * Math.PI * (start + at / count))])];
  }

  /** Add a marker of radius r around (x, y) to a path. */
  steprule.mark = function (path, marker, x, y, r) {
    for (const line of strokes(marker)) line.forEach(([dx, dy], at) => (at ? path.lineTo(x + r * dx, y + r * dy) : path.moveTo(x + r * dx, y + r * dy)));
  };

  const SVG = "http://www.w3.org/2000/svg";

  /** Return a sample of a look for the list of methods: a piece of the line with its marker. */
  steprule.sample = function (look) {
    const svg = document.createElementNS(SVG, "svg"), part = (name, values) => {
      const made = svg.appendChild(document.createElementNS(SVG, name));
      for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
    };
    svg.setAttribute("viewBox", "0 0 34 12");
    svg.setAttribute("class", "sample");
    svg.setAttribute("aria-hidden", "true");
    svg.style.color = `var(${look.colour})`;
    part("path", { d: "M1 6H33", fill: "none", stroke: "currentColor", "stroke-width": look.width, "stroke-dasharray": look.dash.join(" ") });
    const d = strokes(look.marker).map((line) => `M${line.map(([x, y]) => `${(17 + 4.4 * x).toFixed(2)} ${(6 + 4.4 * y).toFixed(2)}`).join("L")}`).join("");
    part("path", { d, fill: "PX*".includes(look.marker) ? "none" : "currentColor", stroke: "currentColor", "stroke-width": 1.6 });
    return svg;
  };
})(globalThis.steprule ??= {});
