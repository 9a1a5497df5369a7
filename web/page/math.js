// The step that runs as MathML: the equation, and the same with its numbers.

const SPACE = "http://www.w3.org/1998/Math/MathML";

function element(name, ...children) {
  const made = document.createElementNS(SPACE, name);
  made.append(...children);
  return made;
}

const i = (name) => element("mi", name);
const o = (sign) => element("mo", sign);
const n = (value) => element("mn", value);
const row = (...parts) => element("mrow", ...parts);
const sub = (base, index) => element("msub", base, index);
const root = (...parts) => element("msqrt", ...parts);
const over = (above, below) => element("mfrac", above, below);
const hat = (base) => element("mover", base, o("^"));
const bar = (base) => element("mover", base, o("¯"));
const square = (base) => element("msup", base, n("2"));
const times = (...parts) => row(...parts.flatMap((part, at) => (at ? [o("\u2062"), part] : [part])));
const paren = (...parts) => row(o("("), ...parts, o(")"));

const x = (index) => sub(i("x"), index);
const x0 = () => sub(hat(i("x")), n("0"));
/** The x_0 of so many steps before. */
const earlier = (count) => element("msubsup", hat(i("x")), n("0"), row(...Array.from({ length: count }, () => o("′"))));
const alphaBar = (index) => sub(bar(i("α")), index);
const network = (index) => row(sub(i("ε"), i("θ")), paren(x(index), o(","), index.cloneNode(true)));
/** What a network that predicts something else says. */
const output = (prediction, index) =>
  prediction === "epsilon" ? network(index) : row(sub(i(prediction === "v" ? "v" : "x"), i("θ")), paren(x(index), o(","), index.cloneNode(true)));

/** A number with five digits, powers of ten written out. */
function number(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    const [digits, power] = value.toExponential(3).split("e");
    return times(row(n(digits.replace("-", "−")), o("·"), element("msup", n("10"), n(String(Number(power)).replace("-", "−")))));
  }
  return n(String(Number(value.toPrecision(5))).replace("-", "−"));
}

/** A sum of coefficients times things, the zeros left out. */
function sum(terms) {
  const kept = terms.filter(([coefficient]) => coefficient !== 0);
  if (kept.length === 0) return n("0");
  const parts = kept.flatMap(([coefficient, thing], at) => {
    const sign = coefficient < 0 ? "−" : "+";
    const size = Math.abs(coefficient);
    const product = size === 1 ? thing : times(number(size), thing);
    return at > 0 || coefficient < 0 ? [o(sign), product] : [product];
  });
  return row(...parts);
}

function equation(left, ...right) {
  return row(left, o("="), ...right);
}

function show(className, content) {
  const math = element("math", content);
  math.setAttribute("display", "block");
  math.classList.add(className);
  return math;
}

/** The limit of the predicted x_0 around it. */
function limited(moment, inner) {
  if (moment.clip !== null) return row(i("clip"), paren(inner));
  return moment.threshold === null ? inner : row(i("threshold"), paren(inner));
}

/** x_0 as the network's words imply it, (S1). */
function impliedX0(prediction) {
  const t = () => i("t");
  if (prediction === "sample") return output(prediction, t());
  if (prediction === "v") {
    return row(times(root(alphaBar(t())), x(t())), o("−"), times(root(n("1"), o("−"), alphaBar(t())), output(prediction, t())));
  }
  return over(
    row(x(t()), o("−"), times(root(n("1"), o("−"), alphaBar(t())), network(t()))),
    root(alphaBar(t())),
  );
}

/** The sampler's own form of its step; s is where it leads. */
function ownForm(moment, prediction) {
  const t = () => i("t");
  const s = () => i("s");
  const noise = moment.sigma === 0 ? [] : [o("+"), times(sub(i("σ"), t()), i("z"))];
  const h = () => element("msup", i("e"), row(o("−"), i("h")));
  switch (moment.sampler) {
    case "ddpm": {
      const alpha = () => sub(i("α"), t());
      const beta = () => sub(i("β"), t());
      if (moment.output !== 0) {
        return [
          "Algorithm 2, line 4: the mean (12) and noise",
          equation(
            x(s()),
            times(
              over(n("1"), root(alpha())),
              paren(x(t()), o("−"), times(over(beta(), root(n("1"), o("−"), alphaBar(t()))), network(t()))),
            ),
            ...noise,
          ),
        ];
      }
      const rest = () => row(n("1"), o("−"), alphaBar(t()));
      return [
        "Algorithm 2, with the mean (11) at the predicted x₀",
        equation(
          x(s()),
          times(over(times(root(alphaBar(s())), beta()), rest()), x0()),
          o("+"),
          times(over(times(root(alpha()), paren(n("1"), o("−"), alphaBar(s()))), rest()), x(t())),
          ...noise,
        ),
      ];
    }
    case "ddim": {
      const variance = moment.sigma === 0 ? [] : [o("−"), square(sub(i("σ"), t()))];
      const eps = prediction === "epsilon" ? network(t()) : hat(i("ε"));
      return [
        "DDIM, (S6)",
        equation(
          x(s()),
          times(root(alphaBar(s())), x0()),
          o("+"),
          times(root(n("1"), o("−"), alphaBar(s()), ...variance), eps),
          ...noise,
        ),
      ];
    }
    case "dpm++": {
      const second = moment.from_x0[1] !== 0;
      const third = moment.from_x0[2] !== 0;
      const d0 = second
        ? paren(x0(), o("+"), times(over(n("1"), times(n("2"), i("r"))), paren(x0(), o("−"), earlier(1))))
        : x0();
      const label = third ? "third order, (S9)" : second ? "second order, (S8)" : "first order, (S7)";
      const ratio = over(root(n("1"), o("−"), alphaBar(s())), root(n("1"), o("−"), alphaBar(t())));
      const tail = third ? [o("+"), o("…")] : [];
      return [
        `DPM-Solver++, ${label}`,
        equation(x(s()), times(ratio, x(t())), o("−"), times(root(alphaBar(s())), paren(h(), o("−"), n("1")), d0), ...tail, ...noise),
      ];
    }
    default: {
      const ratio = over(root(n("1"), o("−"), alphaBar(s())), root(n("1"), o("−"), alphaBar(t())));
      const kernel = i("B");
      const correction = moment.from_x0[1] === 0 ? [] : [
        o("−"),
        times(root(alphaBar(s())), kernel, paren(i("h")), over(sub(i("a"), n("1")), sub(i("r"), n("1"))), paren(earlier(1), o("−"), x0())),
      ];
      return [
        "UniPC's predictor, (S10)",
        equation(x(s()), times(ratio, x(t())), o("−"), times(root(alphaBar(s())), paren(h(), o("−"), n("1")), x0()), ...correction),
      ];
    }
  }
}

/** The list of a step's equations; `prediction` is what the network predicts. */
export function stepEquations(moment, prediction) {
  const list = document.createElement("dl");
  const add = (title, ...formulas) => {
    const term = document.createElement("dt");
    term.textContent = title;
    const data = document.createElement("dd");
    data.append(...formulas);
    list.append(term, data);
  };
  const at = () => n(String(moment.t));
  add(
    "The x₀ that the network's words imply, (S1)",
    show("symbols", equation(x0(), limited(moment, impliedX0(prediction)))),
    show("numbers", equation(x0(), limited(moment, sum([[moment.x0[0], x(at())], [moment.x0[1], output(prediction, at())]])))),
  );
  if (moment.correct !== null) {
    const [base, ...rest] = moment.correct;
    const terms = [[base, i("b")], ...rest.map((c, k) => [c, k === 0 ? x0() : earlier(k)])];
    add(
      "UniPC's corrector, (S11): where the step before should have led, b being where that one began",
      show("numbers", equation(i("b"), sum(terms))),
    );
  }
  const [title, own] = ownForm(moment, prediction);
  const last = moment.alpha_bar_next === 1;
  const led = x(last ? n("0") : i("s"));
  const from = moment.correct === null ? x(at()) : i("b");
  const terms = [
    [moment.base, from],
    [moment.output, output(prediction, at())],
    [moment.from_x0[0], x0()],
    [moment.from_x0[1], earlier(1)],
    [moment.from_x0[2], earlier(2)],
    // A learned variance is the network's second output.
    moment.sigma === null ? [1, times(sub(i("σ"), i("θ")), i("z"))] : [moment.sigma, i("z")],
  ];
  add(
    title,
    show("symbols", own),
    show("numbers", equation(led, sum(terms))),
    show("numbers", row(equation(alphaBar(i("t")), number(moment.alpha_bar)), o(","), equation(alphaBar(i("s")), number(moment.alpha_bar_next)))),
  );
  return list;
}
