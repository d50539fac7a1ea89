// The lecture's frame: the list of scenes, what to watch, one thing to try, and the way on.
(function (steprule) {
  "use strict";
  const { element } = steprule;

  /** The lecture in a box. */
  steprule.Lecture = class {
    /**
     * @param {HTMLElement} box
     * @param {{go: function, apply: function}} actions `go` to a scene by its place, `apply` a patch of the state
     */
    constructor(box, actions) {
      this.box = box;
      this.actions = actions;
      this.made = "";
    }

    /** Show the scene of the state. */
    show(state, word) {
      this.box.hidden = state.view !== "lecture";
      const scenes = steprule.scenes ?? [], at = Math.min(state.scene, scenes.length - 1), made = JSON.stringify([at, state.lang]);
      if (this.box.hidden || at < 0 || made === this.made) return;
      this.made = made;
      const had = document.activeElement?.id;
      this.box.replaceChildren(this.list(scenes, at, state.lang, word), this.scene(scenes, at, state.lang, word));
      if (had && this.box.contains(document.getElementById(had))) document.getElementById(had).focus();
    }

    // The scenes by their numbers, so that the list leaves room for what they show.
    list(scenes, at, lang, word) {
      const items = scenes.map((scene, place) => {
        const name = `${place + 1}. ${scene.title[lang]}`;
        const button = element("button", { type: "button", id: `scene-${scene.id}`, title: name, "aria-label": name, onclick: () => this.actions.go(place) }, String(place + 1));
        if (place === at) button.setAttribute("aria-current", "true");
        return element("li", {}, button);
      });
      const way = (key, place) => element("button", { type: "button", id: `scene-${key}`, disabled: !scenes[place], onclick: () => this.actions.go(place) }, word(key));
      const again = element("button", { type: "button", id: "scene-again", onclick: () => this.actions.go(at) }, word("again"));
      return element("nav", { "aria-label": word("scenes") }, way("previous", at - 1), element("ol", {}, ...items), way("next", at + 1), again);
    }

    scene(scenes, at, lang, word) {
      const scene = scenes[at], texts = (value) => (Array.isArray(value) ? value : [value]).map((text) => element("p", {}, text));
      const tries = (scene.buttons ?? []).map(({ label, patch }, place) =>
        element("button", { type: "button", id: `scene-try-${place}`, class: "primary", onclick: () => this.actions.apply(patch) }, label[lang]));
      return element("div", { class: "scene" },
        element("h2", { id: "scene-title" }, scene.title[lang]),
        element("div", {}, element("h3", {}, word("watch")), ...texts(scene.watch[lang])),
        element("div", {}, element("h3", {}, word("try")), ...texts(scene.try[lang]), element("p", { class: "row" }, ...tries)));
    }
  };
})(globalThis.steprule ??= {});
