// Small things that every piece of the page is made with: numbers as text, elements, colours.
(function (steprule) {
  "use strict";

  /** Write a number as short as a reader needs it. */
  steprule.short = function (value, digits = 3) {
    if (value == null || Number.isNaN(value)) return "–";
    const size = Math.abs(value);
    if (size === Infinity) return value > 0 ? "∞" : "−∞";
    if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
      const [mantissa, power] = value.toExponential(Math.max(0, digits - 2)).split("e");
      return `${mantissa}e${power.replace("-", "−").replace("+", "")}`.replace(/^-/, "−");
    }
    return String(+value.toPrecision(digits)).replace("-", "−");
  };

  /** Return an element with properties, attributes (those with a hyphen or of ARIA) and children. */
  steprule.element = function (name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key === "class" || key === "for" || key === "role" || key.includes("-")) made.setAttribute(key, value);
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  };

  /** Return the colour of a name of the style sheet, in the scheme in use. */
  steprule.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
})(globalThis.steprule ??= {});
