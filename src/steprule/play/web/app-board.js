// The whiteboard: the editor, the formula below it, and what is wrong with it.
(function (steprule) {
  "use strict";
  const { element } = steprule;

  // The colours of code are those of the page; each is legible on its ground in both schemes.
  function highlighting() {
    const { tags } = editor;
    return editor.HighlightStyle.define([
      { tag: [tags.keyword, tags.controlKeyword, tags.definitionKeyword, tags.moduleKeyword], color: "var(--code-keyword)" },
      { tag: [tags.string, tags.special(tags.string)], color: "var(--code-string)" },
      { tag: [tags.number, tags.bool, tags.null], color: "var(--code-number)" },
      { tag: tags.comment, color: "var(--muted)", fontStyle: "italic" },
      { tag: [tags.meta, tags.function(tags.definition(tags.variableName))], color: "var(--accent)", fontWeight: "600" },
    ]);
  }

  // The words that complete: the language's functions, with the sentence that Python says of each.
  function completions(context) {
    const word = context.matchBefore(/[\w.]+/);
    if (!word || (word.from === word.to && !context.explicit)) return null;
    return { from: word.from, options: steprule.completions(), validFor: /^[\w.]*$/ };
  }

  /** The whiteboard in a box. */
  steprule.Board = class {
    /**
     * @param {HTMLElement} box
     * @param {string} text
     * @param {(text: string) => void} edited called with every new text
     */
    constructor(box, text, edited) {
      this.box = box;
      this.formula = box.querySelector(".formula");
      this.errors = box.querySelector(".errors");
      this.label = new editor.Compartment();
      this.view = new editor.EditorView({
        parent: box.querySelector(".editor"),
        state: editor.EditorState.create({ doc: text, extensions: this.extensions(edited) }),
      });
    }

    extensions(edited) {
      const { EditorView, EditorState } = editor;
      return [
        editor.lineNumbers(), editor.history(), editor.drawSelection(), editor.highlightSpecialChars(), editor.indentOnInput(),
        editor.bracketMatching(), editor.closeBrackets(), editor.lintGutter(),
        EditorState.tabSize.of(4), editor.indentUnit.of("    "),
        new editor.LanguageSupport(editor.pythonLanguage), editor.syntaxHighlighting(highlighting()),
        editor.autocompletion({ override: [completions], icons: false }),
        editor.keymap.of([...editor.closeBracketsKeymap, ...editor.completionKeymap, ...editor.historyKeymap, editor.indentWithTab, ...editor.defaultKeymap]),
        EditorView.lineWrapping,
        this.label.of([]),
        EditorView.updateListener.of((update) => update.docChanged && !this.silent && edited(update.state.doc.toString())),
      ];
    }

    /** Name the editor in the language of the page. */
    translate(word) {
      const attributes = { "aria-label": word("editor"), "aria-describedby": "editor-help", spellcheck: "false" };
      this.view.dispatch({ effects: this.label.reconfigure(editor.EditorView.contentAttributes.of(attributes)) });
    }

    /** Write another text. */
    write(text) {
      const { view } = this;
      if (view.state.doc.toString() === text) return;
      this.silent = true;
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text } });
      this.silent = false;
    }

    /** Show what was read: the formula, or the last one paled, and the errors where they are. */
    show({ rule, errors }, word) {
      this.formula.classList.toggle("stale", !rule);
      if (rule && rule.latex !== this.latex) {
        this.latex = rule.latex;
        this.typeset();
      }
      const doc = this.view.state.doc;
      const place = (line, column) => Math.min(doc.length, doc.line(Math.min(doc.lines, Math.max(1, line))).from + Math.max(0, column));
      const marks = errors.map((error) => {
        const from = place(error.line, error.column), to = Math.max(place(error.line, error.endColumn ?? error.column + 1), from);
        return { from, to: Math.min(doc.length, to), severity: "error", message: error.what };
      });
      this.view.dispatch(editor.setDiagnostics(this.view.state, marks));
      const told = errors.map((error) => element("div", { class: "error" },
        element("p", { class: "where" }, word("line-column", error.line, error.column + 1)),
        element("p", { class: "what" }, error.what),
        ...(error.where ? [element("pre", {}, error.where)] : []),
        element("p", { class: "fix" }, error.fix)));
      this.errors.replaceChildren(...told);
    }

    /** Typeset the formula, once the typesetter is there. */
    typeset() {
      if (!this.latex) return;
      if (globalThis.katex) katex.render(this.latex, this.formula, { displayMode: true, throwOnError: false, strict: false, trust: false, errorColor: "currentColor" });
      else {
        this.formula.textContent = "";
        addEventListener("load", () => this.typeset(), { once: true }); // the typesetter is the page's last script
      }
    }
  };
})(globalThis.steprule ??= {});
