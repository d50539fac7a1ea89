// What the facts say of the rules that have a name: their texts, and the words that complete.
(function (steprule) {
  "use strict";
  const { facts } = steprule;

  /** Return the program that is a rule of the board or of the zoo, by its name on this page. */
  steprule.named = (name) => (steprule.board.includes(name) ? `board.${name}` : name);

  /** The names of the zoo's rules and of the board's, as the picker lists them. */
  steprule.rules = {
    board: facts.rules.filter((one) => one.board).map((one) => one.name),
    zoo: facts.rules.filter((one) => !one.board).map((one) => one.name),
  };

  /** Return the text of a named rule, as one writes it. */
  steprule.source = (name, board) => facts.rules.find((one) => one.name === name && one.board === board).source;

  /** Return what completes in the editor. */
  steprule.completions = () => facts.functions.map((one) => ({ label: one.name, type: "function", info: one.doc }));
})(globalThis.steprule ??= {});
