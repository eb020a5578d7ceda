//! The tree of a template.

use std::sync::Arc;

/// Statements in order.
pub(super) type Body = Vec<Node>;

/// A statement and the line it begins on.
#[derive(Debug)]
pub(super) struct Node {
    pub line: u32,
    pub stmt: Stmt,
}

#[derive(Debug)]
pub(super) enum Stmt {
    /// Text between tags.
    Data(String),
    /// `{{ a }}`; `{% print a, b %}`.
    Print(Vec<Expr>),
    /// Conditions with their bodies, and what stands after `else`.
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Vec<Call>, Body),
    With(Vec<(Target, Expr)>, Body),
    Macro(Arc<Macro>),
    /// What is called, and the block as a macro named `caller`.
    CallBlock(Expr, Arc<Macro>),
    FilterBlock(Vec<Call>, Body),
    /// `{% generation %}`, which marks what a model said and renders its body.
    Scope(Body),
    Break,
    Continue,
    /// A tag that needs other files.
    Refused(&'static str),
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub items: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Body,
    pub otherwise: Body,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub name: Option<Arc<str>>,
    pub parameters: Vec<Arc<str>>,
    /// Of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Body,
    /// Names whose use in the body opens the macro for them.
    pub caller: bool,
    pub varargs: bool,
    pub kwargs: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// An attribute of a namespace.
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Operators of one rank, from left to right.
    Chain(Box<Expr>, Vec<(Operator, Expr)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Minus(Box<Expr>),
    Plus(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `b if a else c` as (a, b, c).
    If(Box<(Expr, Expr, Option<Expr>)>),
    /// A value and what is done with it, from left to right.
    Postfix(Box<Expr>, Vec<Post>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug)]
pub(super) enum Post {
    Attribute(Arc<str>),
    Item(Expr),
    /// `[a:b:c]`
    Slice(Box<[Option<Expr>; 3]>),
    Call(Args),
    Filter(Call),
    /// Whether it is negated.
    Test(Call, bool),
}

/// A filter or test with its arguments.
#[derive(Debug)]
pub(super) struct Call {
    pub name: Arc<str>,
    pub args: Args,
}

#[derive(Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*a`
    pub more: Option<Box<Expr>>,
    /// `**a`
    pub more_named: Option<Box<Expr>>,
}
