// The whiteboard: the editor, the formula below it, and what is wrong with it.
(function (steprule) {
  "use strict";
  const { element } = steprule;
  const cut = (text) => (text.length > 500 ? `${text.slice(0, 500)} …` : text); // a message may quote a list of any length

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
     * @param {{edited: (text: string) => void, full: () => void}} told called with every new text, and when one is too long
     */
    constructor(box, text, told) {
      this.box = box;
      this.formula = box.querySelector(".formula");
      this.errors = box.querySelector(".errors");
      this.label = new editor.Compartment();
      this.view = new editor.EditorView({
        parent: box.querySelector(".editor"),
        state: editor.EditorState.create({ doc: text, extensions: this.extensions(told) }),
      });
    }

    extensions({ edited, full }) {
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
        // What the board cannot take is not written: text, formula and picture are always of one rule.
        EditorState.changeFilter.of((change) => !change.docChanged || change.newDoc.length <= steprule.longest || (full(), false)),
        EditorView.updateListener.of((update) => update.docChanged && !this.silent && edited(update.state.doc.toString())),
      ];
    }

    /** Name the editor in the language of the page. */
    translate(word) {
      this.word = word;
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

    // A text may be right and yet hold no rule: where one is to be made of it.
    unruled(transforms, word) {
      const { doc } = this.view.state, lines = doc.toString().split("\n");
      const line = Math.max(0, lines.findIndex((one) => /^\s*def\s/.test(one))), key = transforms.length ? "only-transform" : "no-rule";
      return { line: line + 1, column: 0, endColumn: lines[line].length, what: word(key), where: lines[line], fix: word(`${key}-fix`) };
    }

    /** Show what was read: the formula, or the last one paled, and the errors where they are. */
    show({ rule, errors: found, transforms }, word) {
      const errors = rule || found.length ? found : [this.unruled(transforms, word)];
      this.formula.classList.toggle("stale", !rule);
      if (rule && rule.latex !== this.latex) {
        this.latex = rule.latex;
        this.typeset();
      }
      const doc = this.view.state.doc;
      const place = (line, column) => Math.min(doc.length, doc.line(Math.min(doc.lines, Math.max(1, line))).from + Math.max(0, column));
      const marks = errors.map((error) => {
        const from = place(error.line, error.column), to = Math.max(place(error.line, error.endColumn ?? error.column + 1), from);
        return { from, to: Math.min(doc.length, to), severity: "error", message: cut(error.what) };
      });
      this.view.dispatch(editor.setDiagnostics(this.view.state, marks));
      const told = errors.map((error) => element("div", { class: "error" },
        element("p", { class: "where" }, word("line-column", error.line, error.column + 1)),
        element("p", { class: "what" }, cut(error.what)),
        ...(error.where ? [element("pre", {}, error.where)] : []),
        element("p", { class: "fix" }, error.fix)));
      this.errors.replaceChildren(...told);
    }

    /** Typeset the formula, once the typesetter is there. */
    typeset() {
      if (!this.latex) return;
      if (globalThis.katex) {
        try {
          katex.render(this.latex, this.formula, { displayMode: true, throwOnError: true, strict: false, trust: false });
        } catch {
          this.formula.textContent = this.word("formula-long");
        }
      } else {
        this.formula.textContent = "";
        addEventListener("load", () => this.typeset(), { once: true }); // the typesetter is the page's last script
      }
    }
  };
})(globalThis.steprule ??= {});
