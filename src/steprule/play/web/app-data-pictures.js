// The first digits of the validation set, and what a network reads in them.
(function (steprule) {
  "use strict";
  const { element } = steprule, SIDE = 8, SHOWN = 24;
  steprule.data ??= {};

  /** The digits in a box of its own, `box`. */
  steprule.data.Pictures = class {
    /** @param {object} packed what `play/data.py` made */
    constructor(packed) {
      const { validation } = steprule.data.unpack(packed);
      this.box = element("ul", { class: "digits" });
      this.items = Array.from({ length: SHOWN }, (_, at) => {
        const picture = this.picture(validation.inputs.subarray(SIDE * SIDE * at, SIDE * SIDE * (at + 1)));
        const text = element("span", { "aria-hidden": "true" }), read = element("span", { class: "unseen" });
        this.box.append(element("li", {}, picture, text, read));
        return { label: validation.labels[at], text, read, place: text.parentNode };
      });
    }

    // Dark on light, as on paper, in either scheme.
    picture(pixels) {
      const canvas = element("canvas", { width: SIDE, height: SIDE, "aria-hidden": "true" }), pen = canvas.getContext("2d"), made = pen.createImageData(SIDE, SIDE);
      pixels.forEach((ink, at) => made.data.set([...[0, 0, 0].map(() => Math.round(255 * (1 - ink))), 255], 4 * at));
      pen.putImageData(made, 0, 0);
      return canvas;
    }

    /** Show what is told of each digit, or only what each is; return how many are told right. */
    show(told, word) {
      let right = 0;
      this.items.forEach(({ label, text, read, place }, at) => {
        const one = told?.[at], wrong = one !== undefined && one !== label;
        if (one === label) right += 1;
        text.textContent = one === undefined ? String(label) : wrong ? `${one} ✗` : `${one} ✓`;
        read.textContent = one === undefined ? word("data-unread", label) : word("data-digit", label, one);
        place.className = wrong ? "wrong" : "";
      });
      return right;
    }
  };
})((globalThis.steprule ??= {}));
