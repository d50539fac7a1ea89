// What the facts say of the rules that have a name: the list of them, their texts, and the words that complete.
(function (steprule) {
  "use strict";
  const { library, docs } = steprule.facts;

  /** Return a text without its first line of imports: on the page every name of the language is known. */
  steprule.shown = (source) => source.replace(/^from steprule import [^\n]*\n+/, "");

  /** The rules that the page offers: those of the board by their names, others with that of their file, `adam.adamw`. */
  steprule.rules = Object.entries(library)
    .filter(([, one]) => one.kind === "rule")
    .map(([key, { source, doc }]) => ({ key: key.replace(/^board\./, ""), board: key.startsWith("board."), source: steprule.shown(source), doc }));

  const texts = new Map(steprule.rules.map((one) => [one.key, one.source]));

  /** Return the text of a named rule, as one writes it; an empty one for a name that there is not. */
  steprule.source = (key) => texts.get(key) ?? "";

  /** Return what completes in the editor: the language's words, each with the sentence that Python says of it. */
  steprule.completions = () => Object.entries(docs).map(([label, info]) => ({ label, info, type: "function" }));
})(globalThis.steprule ??= {});
