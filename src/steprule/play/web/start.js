// What Python knows, for everything that follows.
(function (steprule) {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  /** The language, the op table and the rules, as `play/facts.py` makes them. */
  steprule.facts = read("facts");

  /** Dashes, markers and the number of colours, as in the lab's report. */
  steprule.looks = read("looks");
})(globalThis.steprule ??= {});
