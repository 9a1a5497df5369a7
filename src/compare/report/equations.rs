//! The equations of the report, in MathML.

fn i(name: &str) -> String {
    format!("<mi>{name}</mi>")
}

fn n(number: &str) -> String {
    format!("<mn>{number}</mn>")
}

fn o(operator: &str) -> String {
    format!("<mo>{operator}</mo>")
}

fn row(parts: &[String]) -> String {
    format!("<mrow>{}</mrow>", parts.concat())
}

fn sup(base: String, exponent: String) -> String {
    format!("<msup>{base}{exponent}</msup>")
}

fn sub(base: String, index: String) -> String {
    format!("<msub>{base}{index}</msub>")
}

fn frac(above: String, below: String) -> String {
    format!("<mfrac>{above}{below}</mfrac>")
}

fn root(of: String) -> String {
    format!("<msqrt>{of}</msqrt>")
}

fn hat(of: String) -> String {
    format!("<mover accent=\"true\">{of}<mo>^</mo></mover>")
}

fn bar(of: String) -> String {
    format!("<mover accent=\"true\">{of}<mo>\u{af}</mo></mover>")
}

/// Parentheses of the line's height.
fn parens(of: &[String]) -> String {
    let bracket = |text: &str| format!("<mo stretchy=\"false\">{text}</mo>");
    row(&[bracket("("), row(of), bracket(")")])
}

fn norm2(of: String) -> String {
    sup(row(&[o("\u{2016}"), of, o("\u{2016}")]), n("2"))
}

/// An equation on a line of its own, with its number on the slides, if it has one.
fn display(math: String, what: &str) -> String {
    format!(
        "<dt>{what}</dt>\n<dd class=\"equation\"><math xmlns=\"http://www.w3.org/1998/Math/MathML\" display=\"block\">{math}</math></dd>\n"
    )
}

fn d_root() -> String {
    root(i("d"))
}

/// The loss that is trained and measured: equation (21).
pub(super) fn loss() -> String {
    let abar = sub(bar(i("\u{3b1}")), i("t"));
    let x_t = row(&[
        root(abar.clone()),
        sub(i("x"), n("0")),
        o("+"),
        root(row(&[n("1"), o("\u{2212}"), abar])),
        i("\u{3b5}"),
    ]);
    let eps = row(&[sub(i("\u{3b5}"), i("\u{3b8}")), parens(&[x_t, o(","), i("t")])]);
    let math = row(&[
        sub(i("L"), "<mtext>simple</mtext>".into()),
        o("="),
        i("E"),
        norm2(row(&[i("\u{3b5}"), o("\u{2212}"), eps])),
    ]);
    display(math, "The loss, as its mean over pixels (21)")
}

/// The bound (17).
pub(super) fn bound() -> String {
    let l = |index: String| sub(i("L"), index);
    let sum =
        format!("<munderover>{}{}{}</munderover>", o("\u{2211}"), row(&[i("t"), o("="), n("2")]), i("T"));
    let p = row(&[sub(i("p"), i("\u{3b8}")), parens(&[sub(i("x"), n("0"))])]);
    let math = row(&[
        i("E"),
        o("["),
        o("\u{2212}"),
        i("log"),
        p,
        o("]"),
        o("\u{2264}"),
        l(i("T")),
        o("+"),
        sum,
        l(row(&[i("t"), o("\u{2212}"), n("1")])),
        o("+"),
        l(n("0")),
    ]);
    display(math, "The variational bound (17), here in bits per dimension")
}

/// The Fréchet distance of two sets of features.
pub(super) fn frechet() -> String {
    let (mu, sigma) = (|k: &str| sub(i("\u{3bc}"), n(k)), |k: &str| sub(i("\u{3a3}"), n(k)));
    let product = root(row(&[sigma("1"), sigma("2")]));
    let trace = row(&[sigma("1"), o("+"), sigma("2"), o("\u{2212}"), n("2"), product]);
    let math = row(&[norm2(row(&[mu("1"), o("\u{2212}"), mu("2")])), o("+"), i("tr"), parens(&[trace])]);
    display(math, "The Fr\u{e9}chet distance of features with means \u{3bc} and covariances \u{3a3}")
}

/// Exact attention (22).
pub(super) fn softmax() -> String {
    let scores = frac(row(&[i("Q"), sup(i("K"), i("T"))]), d_root());
    let a = row(&[i("A"), o("="), i("exp"), o("("), scores, o(")")]);
    let math = row(&[
        i("Att"),
        parens(&[i("Q"), o(","), i("K"), o(","), i("V")]),
        o("="),
        sup(i("D"), row(&[o("\u{2212}"), n("1")])),
        i("A"),
        i("V"),
        o(","),
        a,
        o(","),
        i("D"),
        o("="),
        i("diag"),
        parens(&[i("A"), sub(n("1"), i("L"))]),
    ]);
    display(math, "Softmax attention (22)")
}

/// FAVOR+ (26) and its positive features (25).
pub(super) fn favor() -> String {
    let kt_v = parens(&[sup(parens(&[i("K\u{2032}")]), i("T")), i("V")]);
    let attention = row(&[
        hat(i("Att")),
        parens(&[i("Q"), o(","), i("K"), o(","), i("V")]),
        o("="),
        sup(hat(i("D")), row(&[o("\u{2212}"), n("1")])),
        parens(&[i("Q\u{2032}"), kt_v]),
        o(","),
        i("Q\u{2032}"),
        o("="),
        i("\u{3d5}"),
        parens(&[i("Q")]),
        o(","),
        i("K\u{2032}"),
        o("="),
        i("\u{3d5}"),
        parens(&[i("K")]),
    ]);
    let length = row(&[o("\u{2212}"), frac(norm2(i("x")), row(&[n("2"), d_root()]))]);
    let feature = |index: &str| {
        let exponent = frac(
            row(&[sup(sub(i("w"), i(index)), i("T")), i("x")]),
            sup(i("d"), row(&[n("1"), o("/"), n("4")])),
        );
        sup(i("e"), exponent)
    };
    let features = row(&[
        i("\u{3d5}"),
        parens(&[i("x")]),
        o("="),
        frac(n("1"), root(i("m"))),
        sup(i("e"), length),
        o("("),
        feature("1"),
        o(","),
        o("\u{2026}"),
        o(","),
        feature("m"),
        o(")"),
    ]);
    display(attention, "FAVOR+ attention (26)") + &display(features, "Its positive features (25)")
}

/// Operations of both, and where they are equal.
pub(super) fn break_even() -> String {
    let math = row(&[
        n("4"),
        sup(i("L"), n("2")),
        i("d"),
        o("="),
        n("8"),
        i("L"),
        i("m"),
        i("d"),
        o("\u{21d2}"),
        i("L"),
        o("="),
        n("2"),
        i("m"),
        o(";"),
        n("4"),
        sup(i("L"), n("2")),
        i("d"),
        o("="),
        n("12"),
        i("L"),
        i("m"),
        i("d"),
        o("\u{21d2}"),
        i("L"),
        o("="),
        n("3"),
        i("m"),
    ]);
    display(math, "Operations of a head's forward pass: one function of the features, and two")
}

/// The relative variance of the kernel's estimate: Lemma 2 of Choromanski et al. (2021).
pub(super) fn variance() -> String {
    let z = norm2(row(&[i("x"), o("+"), i("y")]));
    let estimate = row(&[i("\u{3d5}"), sup(parens(&[i("x")]), i("T")), i("\u{3d5}"), parens(&[i("y")])]);
    let kernel = sup(i("e"), row(&[sup(i("x"), i("T")), i("y")]));
    let ratio = row(&[i("Var"), o("["), frac(estimate, kernel), o("]")]);
    let math = row(&[ratio, o("="), frac(row(&[sup(i("e"), z), o("\u{2212}"), n("1")]), i("m"))]);
    display(math, "Relative variance of i.i.d. positive features (Choromanski et al. 2021, Lemma 2)")
}
