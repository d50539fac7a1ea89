// What the playground needs of CodeMirror 6 and of the parser of Python, under one global name.
export { EditorView, keymap, lineNumbers, drawSelection, highlightSpecialChars, highlightActiveLine } from "@codemirror/view";
export { EditorState, Compartment, Annotation, StateEffect, StateField } from "@codemirror/state";
export { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
export { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
export { HighlightStyle, LanguageSupport, LRLanguage, bracketMatching, indentOnInput, indentUnit, syntaxHighlighting } from "@codemirror/language";
export { lintGutter, linter, setDiagnostics } from "@codemirror/lint";
export { pythonLanguage } from "@codemirror/lang-python";
export { parser as pythonParser } from "@lezer/python";
export { tags } from "@lezer/highlight";
