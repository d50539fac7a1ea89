// What the page says besides the facts of the language.
(function (steprule) {
  "use strict";
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  /** Dashes, markers and the number of colours, as in the lab's report. */
  steprule.looks = read("looks");

  /** The public names of the library, which a text may use without importing them. */
  steprule.names = read("names");
})(globalThis.steprule ??= {});
