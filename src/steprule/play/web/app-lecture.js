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

    list(scenes, at, lang, word) {
      const items = scenes.map((scene, place) => {
        const button = element("button", { type: "button", id: `scene-${scene.id}`, onclick: () => this.actions.go(place) }, `${place + 1}. ${scene.title[lang]}`);
        if (place === at) button.setAttribute("aria-current", "true");
        return element("li", {}, button);
      });
      return element("nav", { "aria-label": word("scenes") }, element("ol", {}, ...items));
    }

    scene(scenes, at, lang, word) {
      const scene = scenes[at], way = (key, place) => element("button", { type: "button", id: `scene-${key}`, disabled: !scenes[place], onclick: () => this.actions.go(place) }, word(key));
      const texts = (value) => (Array.isArray(value) ? value : [value]).map((text) => element("p", {}, text));
      const tried = scene.patch ?? scene.attempt, trial = tried ? [element("button", { type: "button", id: "scene-try", class: "primary", onclick: () => this.actions.apply(tried) }, word("try"))] : [];
      return element("div", { class: "scene" },
        element("p", { class: "count" }, word("scene-of", at + 1, scenes.length)),
        element("h2", { id: "scene-title" }, scene.title[lang]),
        element("h3", {}, word("watch")), ...texts(scene.watch[lang]),
        element("h3", {}, word("try")), ...texts(scene.try[lang]),
        element("p", { class: "row" }, way("previous", at - 1), way("next", at + 1), ...trial,
          element("button", { type: "button", id: "scene-again", onclick: () => this.actions.go(at) }, word("again"))));
    }
  };
})(globalThis.steprule ??= {});
