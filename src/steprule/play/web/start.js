// What the page says besides the facts of the language.
(function (steprule) {
  "use strict";

  /** Dashes, markers and the number of colours, as in the lab's report. */
  steprule.looks = JSON.parse(document.getElementById("looks").textContent);
})(globalThis.steprule ??= {});
