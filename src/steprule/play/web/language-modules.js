// Modules: steprule with its library of rules, Python's math and functools, and those that no page has.
(function (steprule) {
  "use strict";

  const language = (steprule.language ??= Object.create(null));
  const { Builtin, PythonError, Refusal, Sequence, Dict, isSymbol, isNumber, number, real, kindOf } = language;
  const { told, repr } = language.text;

  /** A module: its members by name. */
  class Module {
    kind = "module";
    constructor(name, members) {
      Object.assign(this, { name, members, root: this });
    }
    get(name) {
      const found = this.members(name);
      if (found !== undefined) return found;
      throw new PythonError("AttributeError", `module '${this.name}' has no attribute '${name}'`, name);
    }
    *starred() {
      for (const name of this.names?.() ?? []) yield [name, this.get(name)];
    }
    repr() {
      return `<module '${this.name}'>`;
    }
  }

  /** A function or number of a library that no page has, such as NumPy's. */
  class Foreign {
    kind = "module";
    callable = true;
    constructor(library, path) {
      Object.assign(this, { library, path });
    }
    call_(given, named) {
      const name = this.path[this.path.length - 1];
      const symbols = [...given, ...named.values()].some(isSymbol);
      if (symbols && this.library === "torch")
        throw new Refusal(told("torch's", { name, fix: language.advice.instead(name) }));
      if (symbols)
        throw new PythonError("TypeError", "operand 'Symbol' does not support ufuncs (__array_ufunc__=None)");
      throw new Refusal(told("elsewhere", { name: [this.library, ...this.path].join(".") }));
    }
    repr() {
      return `<function ${this.path.at(-1)}>`;
    }
  }

  // Members and items --------------------------------------------------------------------------------------------

  /** Return an attribute of a value. */
  language.attribute = function (owner, name) {
    if (owner instanceof Module) return owner.get(name);
    if (owner instanceof Foreign) return new Foreign(owner.library, [...owner.path, name]);
    if (isSymbol(owner)) {
      if (name.startsWith("__")) throw new PythonError("AttributeError", name, name);
      throw new Refusal(told("attribute", { name, fix: language.advice.instead(name) }));
    }
    const method = METHODS.get(`${kindOf(owner)}.${name}`);
    if (method) return new Builtin(name, (given) => method(owner, ...given));
    throw new PythonError("AttributeError", `'${kindOf(owner)}' object has no attribute '${name}'`, name);
  };

  const METHODS = new Map(
    Object.entries({
      "list.append": (list, value) => (list.items.push(value), null),
      "list.index": (list, value) => BigInt(list.items.indexOf(value)),
      "dict.get": (dict, key, other = null) => (dict.items.has(key) ? dict.items.get(key) : other),
      "dict.items": (dict) => new language.List([...dict.items].map((pair) => new language.Tuple(pair))),
      "dict.keys": (dict) => new language.List([...dict.items.keys()]),
      "dict.values": (dict) => new language.List([...dict.items.values()]),
      "str.startswith": (text, start) => text.startsWith(start),
      "str.endswith": (text, end) => text.endsWith(end),
      "str.lower": (text) => text.toLowerCase(),
      "str.upper": (text) => text.toUpperCase(),
    }),
  );

  language.item = function (owner, index) {
    if (isSymbol(owner)) throw language.valueless("getitem");
    if (isSymbol(index)) throw language.valueless("index");
    if (owner instanceof Dict) {
      if (owner.items.has(index)) return owner.items.get(index);
      throw new PythonError("KeyError", repr(index));
    }
    const items = typeof owner === "string" ? [...owner] : owner instanceof Sequence ? owner.items : null;
    if (items === null) throw new PythonError("TypeError", `'${kindOf(owner)}' object is not subscriptable`);
    const found = items.at(Number(index));
    if (found === undefined) throw new PythonError("IndexError", `${kindOf(owner)} index out of range`);
    return found;
  };

  language.setItem = function (owner, index, value) {
    if (owner instanceof Dict) return void owner.items.set(index, value);
    if (owner instanceof language.List) return void (owner.items[Number(index)] = value);
    throw new PythonError("TypeError", `'${kindOf(owner)}' object does not support item assignment`);
  };

  // The library of rules -----------------------------------------------------------------------------------------

  let library = new Map();
  let words = new Map();

  /** Read a rule of the zoo from its source, once for each text. */
  function ofLibrary(name) {
    if (!library.has(name)) {
      const { source } = language.tables().library.get(name);
      const { doc, tree } = language.parse(source);
      const names = new Map(words);
      const frame = new language.Frame(doc, names);
      frame.names = names;
      const before = language.at;
      for (const kid of tree.kids) language.statement(kid, frame);
      language.at = before;
      library.set(name, names.get(name.split(".").at(-1)));
    }
    return library.get(name);
  }

  function zooModule(name) {
    const own = new Module(`steprule.zoo.${name}`, (member) => {
      const key = `${name}.${member}`;
      return language.tables().library.has(key) ? ofLibrary(key) : undefined;
    });
    const known = [...language.tables().library.keys()].filter((key) => key.startsWith(`${name}.`));
    own.names = () => known.map((key) => key.slice(name.length + 1));
    return known.length ? own : undefined;
  }

  /** A member of steprule itself. */
  function member(name) {
    if (words.has(name)) return words.get(name);
    if (name === "zoo") return new Module("steprule.zoo", zooModule);
    const found = language.tables().public.get(name);
    if (found === undefined) return undefined;
    return found.includes(".") ? ofLibrary(found) : zooModule(found);
  }

  function steprule_() {
    const own = new Module("steprule", member);
    const hidden = (name) => language.builtins.has(name);
    own.names = () => [...words.keys(), ...language.tables().public.keys()].filter((name) => !hidden(name));
    return own;
  }

  // Python's math --------------------------------------------------------------------------------------------------

  const NUMBERS = { pi: Math.PI, e: Math.E, tau: 2 * Math.PI, inf: Infinity, nan: NaN };
  const WHOLE = { floor: "floor", ceil: "ceil", trunc: "trunc" };

  function mathMember(name) {
    if (Object.hasOwn(NUMBERS, name)) return NUMBERS[name];
    const own = {
      fabs: Math.abs,
      isfinite: Number.isFinite,
      isnan: Number.isNaN,
      pow: Math.pow,
      fmod: (a, b) => a % b,
    };
    const run = Object.hasOwn(own, name) ? own[name] : Object.hasOwn(Math, name) ? Math[name] : undefined;
    if (typeof run !== "function") return undefined;
    return new Builtin(name, (given) => {
      if (given.some(isSymbol)) throw language.valueless(Object.hasOwn(WHOLE, name) ? name : "float");
      if (!given.every(isNumber))
        throw new PythonError("TypeError", `must be real number, not ${kindOf(given.find((one) => !isNumber(one)))}`);
      const found = run(...given.map(real));
      if (Number.isNaN(found) && !given.some((one) => Number.isNaN(number(one))))
        throw new PythonError("ValueError", "math domain error");
      if (found === Infinity && given.every((one) => Number.isFinite(number(one))))
        throw new PythonError("OverflowError", "math range error");
      if (["log", "log2", "log10"].includes(name) && found === -Infinity)
        throw new PythonError("ValueError", "math domain error");
      return Object.hasOwn(WHOLE, name) ? BigInt(found) : found;
    });
  }

  function partial([callee, ...first], named) {
    return new Builtin("partial", (given, more) =>
      language.invoke(callee, [...first, ...given], new Map([...named, ...more])),
    );
  }

  const FOREIGN = new Set(["numpy", "torch"]);

  /** Return a module by its name. */
  language.module = function (name) {
    const [root, ...path] = name.split(".");
    if (root === "steprule") {
      const own = path.reduce((module, one) => module.get(one), steprule_());
      own.root = steprule_();
      return own;
    }
    if (FOREIGN.has(root)) return new Foreign(root, path);
    if (name === "builtins") return new Module("builtins", (own) => language.builtins.get(own));
    if (name === "math") return new Module("math", mathMember);
    if (name === "functools")
      return new Module("functools", (own) => (own === "partial" ? new Builtin("partial", partial) : undefined));
    if (["__future__", "typing", "collections.abc"].includes(name)) return new Module(name, () => null);
    throw new Refusal(told("no module", { name }));
  };

  /** The names that a text may use without an import, if it imports nothing of steprule. */
  language.everything = function () {
    const all = new Map(words);
    for (const name of language.tables().public.keys()) all.set(name, member(name));
    all.set("sr", steprule_());
    return all;
  };

  /** Forget what was read before: every text is read anew. */
  language.begin = function () {
    language.tables();
    language.forget();
    language.refuel();
    language.recorder = null;
    language.at = null;
    library = new Map();
    words = language.words();
  };
})((globalThis.steprule ??= {}));
