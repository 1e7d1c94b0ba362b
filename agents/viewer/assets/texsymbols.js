// The commands of tex.js that stand for one symbol, and the names of those that stand for a kind of thing.

// A table without the names that every object has, for \constructor is no command.
function bare(entries) {
  return Object.assign(Object.create(null), entries);
}

function symbols(list) {
  const parts = list.split(" ");
  return bare(Object.fromEntries(parts.filter((_, k) => k % 2 === 0).map((name, k) => [name, parts[2 * k + 1]])));
}

const LETTERS = symbols(
  "alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ lambda " +
    "λ mu μ nu ν xi ξ pi π varpi ϖ rho ρ sigma σ varsigma ς tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω " +
    "Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω infty ∞ ell ℓ hbar ℏ " +
    "partial ∂ nabla ∇ emptyset ∅ varnothing ∅ Re ℜ Im ℑ aleph ℵ imath ı jmath ȷ ldots … dots … cdots ⋯ dotsc … " +
    "dotsb ⋯ dotsm ⋯ vdots ⋮ ddots ⋱ angle ∠ triangle △ circ ∘ degree ° prime ′ top ⊤ bot ⊥ checkmark ✓ square □ " +
    "blacksquare ■ Box □ star ⋆ dagger † pounds £",
);
const OPERATORS = symbols(
  "cdot ⋅ times × div ÷ pm ± mp ∓ ast ∗ bullet ∙ oplus ⊕ otimes ⊗ cap ∩ cup ∪ setminus ∖ wedge ∧ vee ∨ land ∧ " +
    "lor ∨ neg ¬ lnot ¬ le ≤ leq ≤ leqslant ⩽ ge ≥ geq ≥ geqslant ⩾ lt < gt > ne ≠ neq ≠ equiv ≡ approx ≈ sim ∼ " +
    "simeq ≃ cong ≅ propto ∝ ll ≪ gg ≫ in ∈ notin ∉ ni ∋ subset ⊂ subseteq ⊆ supset ⊃ supseteq ⊇ subsetneq ⊊ mid " +
    "∣ nmid ∤ parallel ∥ perp ⊥ to → rightarrow → leftarrow ← leftrightarrow ↔ Rightarrow ⇒ Leftarrow ⇐ " +
    "Leftrightarrow ⇔ implies ⟹ impliedby ⟸ iff ⟺ longrightarrow ⟶ Longrightarrow ⟹ mapsto ↦ uparrow ↑ downarrow " +
    "↓ therefore ∴ because ∵ forall ∀ exists ∃ nexists ∄ vdash ⊢ models ⊨ colon : vert | Vert ‖ lvert | rvert | " +
    "lVert ‖ rVert ‖ lbrace { rbrace } lbrack [ rbrack ] langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ " +
    "backslash \\ divides ∣ coloneqq ≔ gets ← asymp ≍ preceq ⪯ succeq ⪰ prec ≺ succ ≻ doteq ≐ triangleq ≜ " +
    "hookrightarrow ↪ nearrow ↗ searrow ↘",
);
const LIMITED = symbols(
  "sum ∑ prod ∏ coprod ∐ bigcup ⋃ bigcap ⋂ bigoplus ⨁ bigotimes ⨂ bigvee ⋁ bigwedge ⋀ lim lim max max min min " +
    "sup sup inf inf limsup lim\u2009sup liminf lim\u2009inf gcd gcd argmax argmax argmin argmin Pr Pr",
);
const INTEGRALS = symbols("int ∫ iint ∬ iiint ∭ oint ∮");
const FUNCTIONS = new Set(
  "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp det dim ker deg arg hom lcm".split(
    " ",
  ),
);
const SPACES = bare({
  ",": 0.167,
  ":": 0.222,
  ">": 0.222,
  ";": 0.278,
  "!": -0.167,
  " ": 0.25,
  quad: 1,
  qquad: 2,
  enspace: 0.5,
  thinspace: 0.167,
});
const ACCENTS = symbols(
  "hat ^ widehat ^ bar ‾ vec → overrightarrow → tilde ~ widetilde ~ dot ˙ ddot ¨ check ˇ acute ´ overbrace ⏞",
);
const TEXTS = new Set(
  "text textbf textit textrm texttt mbox hbox mathrm operatorname textnormal mathit mathsf mathtt".split(" "),
);
const IGNORED = new Set(
  (
    "displaystyle textstyle scriptstyle limits nolimits nonumber notag big Big bigg Bigg bigl bigr Bigl Bigr " +
    "biggl biggr Biggl Biggr middle hfill centering rm bf it"
  ).split(" "),
);
const FENCED = bare({
  pmatrix: "()",
  bmatrix: "[]",
  Bmatrix: "{}",
  vmatrix: "||",
  Vmatrix: "‖‖",
  cases: "{",
  rcases: " }",
  matrix: "",
  smallmatrix: "",
});
const TABLES = new Set(
  "aligned align align* alignat gathered gather gather* equation equation* split array eqnarray eqnarray*".split(" "),
);
