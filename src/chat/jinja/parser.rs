//! Tokens to the tree, with Jinja's grammar.

use std::sync::Arc;

use super::Fail;
use super::ast::{
    Args, Body, Call, Comparison, Expr, For, Macro, Node, Operator, Post, Stmt, Target,
};
use super::lexer::{self, Token};
use crate::limits;

type Result<T> = std::result::Result<T, Fail>;

/// The tree of a source.
pub(super) fn parse(source: &str) -> Result<Body> {
    let tokens = lexer::tokens(source)?;
    let mut longest = 0;
    for (token, line) in &tokens {
        longest = match token {
            Token::VariableBegin | Token::BlockBegin => 0,
            _ => longest + 1,
        };
        if longest > limits::MAX_TAG_TOKENS {
            return Err(Fail::syntax("a tag is too long", *line));
        }
    }
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        special: Vec::new(),
    };
    let (body, end) = parser.body(&[])?;
    debug_assert!(end.is_empty());
    Ok(body)
}

struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: usize,
    /// Of each macro around: whether `caller`, `varargs`, `kwargs` are used.
    special: Vec<[bool; 3]>,
}

const SPECIAL: [&str; 3] = ["caller", "varargs", "kwargs"];

/// What a token is called in messages.
fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "text".into(),
        Token::VariableBegin => "{{".into(),
        Token::VariableEnd => "}}".into(),
        Token::BlockBegin => "{%".into(),
        Token::BlockEnd => "%}".into(),
        Token::Name(name) => format!("`{name}`"),
        Token::Text(_) => "a text".into(),
        Token::Int(_) | Token::Float(_) => "a number".into(),
        Token::Operator(o) => format!("`{o}`"),
        Token::End => "the end of the template".into(),
    }
}

impl Parser {
    fn token(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn look(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let token = self.token().clone();
        self.at += 1;
        token
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Fail::syntax(message, self.line()))
    }

    fn is(&self, operator: &str) -> bool {
        matches!(self.token(), Token::Operator(o) if *o == operator)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.token(), Token::Name(n) if n == name)
    }

    /// Steps over an operator if it is next.
    fn skip(&mut self, operator: &str) -> bool {
        let found = self.is(operator);
        self.at += usize::from(found);
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, operator: &str) -> Result<()> {
        if self.skip(operator) {
            return Ok(());
        }
        self.fail(format!(
            "expected `{operator}`, found {}",
            describe(self.token())
        ))
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) {
            return Ok(());
        }
        self.fail(format!(
            "expected `{name}`, found {}",
            describe(self.token())
        ))
    }

    fn name(&mut self) -> Result<Arc<str>> {
        match self.token() {
            Token::Name(name) => {
                let name = name.as_str().into();
                self.at += 1;
                Ok(name)
            }
            other => self.fail(format!("expected a name, found {}", describe(other))),
        }
    }

    /// Runs a part of the grammar one level deeper.
    fn deeper<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= limits::MAX_TEMPLATE_RECURSION {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of the tags `ends`, whose name is stepped over and returned; with none
    /// of them up to the end.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Body, &'static str)> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                Token::Data(text) => body.push(Node {
                    line,
                    stmt: Stmt::Data(text),
                }),
                Token::VariableBegin => {
                    let value = self.tuple(false, &[])?;
                    if self.next() != Token::VariableEnd {
                        self.at -= 1;
                        let found = describe(self.token());
                        return self.fail(format!("expected }}}}, found {found}"));
                    }
                    let stmt = Stmt::Print(vec![value]);
                    body.push(Node { line, stmt });
                }
                Token::BlockBegin => {
                    if let Some(end) = ends.iter().find(|e| self.is_name(e)) {
                        self.at += 1;
                        return Ok((body, end));
                    }
                    let stmt = self.deeper(Self::statement)?;
                    body.push(Node { line, stmt });
                    self.block_end()?;
                }
                Token::End if ends.is_empty() => return Ok((body, "")),
                Token::End => {
                    self.at -= 1;
                    return self.fail(format!("the template ends before {}", ends.join(" or ")));
                }
                _ => return self.fail("unexpected end of a tag"),
            }
        }
    }

    fn block_end(&mut self) -> Result<()> {
        if self.next() == Token::BlockEnd {
            return Ok(());
        }
        self.at -= 1;
        self.fail(format!("expected %}}, found {}", describe(self.token())))
    }

    /// The rest of a tag, and what it holds.
    fn block(&mut self, ends: &[&'static str]) -> Result<(Body, &'static str)> {
        self.skip(":");
        self.block_end()?;
        self.body(ends)
    }

    fn statement(&mut self) -> Result<Stmt> {
        let name = self.name()?;
        match &*name {
            "if" => self.branches(),
            "for" => self.for_loop(),
            "set" => self.set(),
            "with" => self.with(),
            "macro" => self.macro_block(),
            "call" => self.call_block(),
            "filter" => {
                let filters = self.filters(true)?;
                Ok(Stmt::FilterBlock(filters, self.block(&["endfilter"])?.0))
            }
            "generation" => Ok(Stmt::Scope(self.block(&["endgeneration"])?.0)),
            "print" => {
                let mut values = Vec::new();
                while *self.token() != Token::BlockEnd {
                    if !values.is_empty() {
                        self.expect(",")?;
                    }
                    values.push(self.expression()?);
                }
                Ok(Stmt::Print(values))
            }
            "break" => Ok(Stmt::Break),
            "continue" => Ok(Stmt::Continue),
            "include" => Ok(self.refused("include")),
            "import" => Ok(self.refused("import")),
            "from" => Ok(self.refused("from")),
            "extends" => Ok(self.refused("extends")),
            "block" | "autoescape" => {
                self.fail(format!("`{name}` has no place in a chat template"))
            }
            _ => self.fail(format!("unknown tag `{}`", super::cut(&name))),
        }
    }

    /// Steps to the end of a tag that fails when it is reached.
    fn refused(&mut self, name: &'static str) -> Stmt {
        while !matches!(self.token(), Token::BlockEnd | Token::End) {
            self.at += 1;
        }
        Stmt::Refused(name)
    }

    fn branches(&mut self) -> Result<Stmt> {
        let mut branches = Vec::new();
        loop {
            let condition = self.tuple_without_if(&[])?;
            let (body, end) = self.block(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            if branches.len() > limits::MAX_ELIFS {
                return self.fail("a chain of branches is too long");
            }
            match end {
                "elif" => continue,
                "else" => return Ok(Stmt::If(branches, self.block(&["endif"])?.0)),
                _ => return Ok(Stmt::If(branches, Vec::new())),
            }
        }
    }

    fn for_loop(&mut self) -> Result<Stmt> {
        let target = self.target(&["in"], false)?;
        self.expect_name("in")?;
        let items = self.tuple_without_if(&["recursive"])?;
        let condition = if self.skip_name("if") {
            Some(self.expression()?)
        } else {
            None
        };
        let recursive = self.skip_name("recursive");
        let (body, end) = self.block(&["endfor", "else"])?;
        let otherwise = if end == "else" {
            self.block(&["endfor"])?.0
        } else {
            Vec::new()
        };
        Ok(Stmt::For(Arc::new(For {
            target,
            items,
            condition,
            recursive,
            body,
            otherwise,
        })))
    }

    fn set(&mut self) -> Result<Stmt> {
        let target = self.target(&[], true)?;
        if self.skip("=") {
            return Ok(Stmt::Set(target, self.tuple(false, &[])?));
        }
        let filters = self.filters(false)?;
        Ok(Stmt::SetBlock(target, filters, self.block(&["endset"])?.0))
    }

    fn with(&mut self) -> Result<Stmt> {
        let mut values = Vec::new();
        while *self.token() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect(",")?;
            }
            let target = self.target(&[], false)?;
            self.expect("=")?;
            values.push((target, self.expression()?));
        }
        Ok(Stmt::With(values, self.block(&["endwith"])?.0))
    }

    fn signature(&mut self) -> Result<(Vec<Arc<str>>, Vec<Expr>)> {
        let (mut names, mut defaults) = (Vec::new(), Vec::new());
        self.expect("(")?;
        while !self.is(")") {
            if !names.is_empty() {
                self.expect(",")?;
            }
            names.push(self.assignable()?);
            if self.skip("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("a parameter without a default after one with a default");
            }
        }
        self.expect(")")?;
        Ok((names, defaults))
    }

    /// The body of a macro or a call block.
    fn macro_of(
        &mut self,
        name: Option<Arc<str>>,
        (parameters, defaults): (Vec<Arc<str>>, Vec<Expr>),
        end: &'static str,
    ) -> Result<Arc<Macro>> {
        self.special.push([false; 3]);
        let body = self.block(&[end])?.0;
        let used = self.special.pop().unwrap_or_default();
        let [caller, varargs, kwargs] =
            std::array::from_fn(|i| used[i] && parameters.iter().all(|p| **p != *SPECIAL[i]));
        Ok(Arc::new(Macro {
            name,
            parameters,
            defaults,
            body,
            caller,
            varargs,
            kwargs,
        }))
    }

    fn macro_block(&mut self) -> Result<Stmt> {
        let name = self.assignable()?;
        let signature = self.signature()?;
        Ok(Stmt::Macro(self.macro_of(
            Some(name),
            signature,
            "endmacro",
        )?))
    }

    fn call_block(&mut self) -> Result<Stmt> {
        let signature = if self.is("(") {
            self.signature()?
        } else {
            Default::default()
        };
        let call = self.expression()?;
        if !matches!(&call, Expr::Postfix(_, posts) if matches!(posts.last(), Some(Post::Call(_))))
        {
            return self.fail("`call` needs a call");
        }
        Ok(Stmt::CallBlock(
            call,
            self.macro_of(None, signature, "endcall")?,
        ))
    }

    /// A name that can be assigned to.
    fn assignable(&mut self) -> Result<Arc<str>> {
        let name = self.name()?;
        if matches!(
            &*name,
            "true" | "false" | "none" | "True" | "False" | "None"
        ) {
            return self.fail(format!("`{name}` cannot be assigned to"));
        }
        Ok(name)
    }

    fn target(&mut self, ends: &[&str], attributes: bool) -> Result<Target> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let over = matches!(self.token(), Token::BlockEnd) || self.is(")");
            if over || ends.iter().any(|e| self.is_name(e)) {
                break;
            }
            targets.push(if self.skip("(") {
                let inner = self.deeper(|p| p.target(&[], attributes))?;
                self.expect(")")?;
                inner
            } else {
                let name = self.assignable()?;
                if attributes && self.skip(".") {
                    Target::Attribute(name, self.name()?)
                } else {
                    Target::Name(name)
                }
            });
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        match (targets.pop(), is_tuple) {
            (Some(only), false) => Ok(only),
            (None, _) => self.fail("expected a name to assign to"),
            (Some(last), true) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
        }
    }

    fn tuple_without_if(&mut self, ends: &[&str]) -> Result<Expr> {
        self.tuple_of(false, ends, Self::or)
    }

    /// One expression, or several with commas between them.
    fn tuple(&mut self, parenthesized: bool, ends: &[&str]) -> Result<Expr> {
        self.tuple_of(parenthesized, ends, Self::expression)
    }

    fn tuple_of(
        &mut self,
        parenthesized: bool,
        ends: &[&str],
        item: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            let over = matches!(self.token(), Token::VariableEnd | Token::BlockEnd) || self.is(")");
            if over || ends.iter().any(|e| self.is_name(e)) {
                break;
            }
            items.push(item(self)?);
            if !self.skip(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            None if !parenthesized => self.fail(format!(
                "expected a value, found {}",
                describe(self.token())
            )),
            last => {
                items.extend(last);
                Ok(Expr::Tuple(items))
            }
        }
    }

    fn expression(&mut self) -> Result<Expr> {
        self.deeper(|p| {
            let mut value = p.or()?;
            while p.skip_name("if") {
                let condition = p.or()?;
                let otherwise = if p.skip_name("else") {
                    Some(p.expression()?)
                } else {
                    None
                };
                value = Expr::If(Box::new((condition, value, otherwise)));
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expr> {
        self.joined("or", Self::and, Expr::Or)
    }

    fn and(&mut self) -> Result<Expr> {
        self.joined("and", Self::not, Expr::And)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Result<Expr>,
        join: fn(Vec<Expr>) -> Expr,
    ) -> Result<Expr> {
        let first = part(self)?;
        if !self.is_name(word) {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name(word) {
            all.push(part(self)?);
        }
        Ok(join(all))
    }

    fn not(&mut self) -> Result<Expr> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.token() {
                Token::Operator("==") => Comparison::Eq,
                Token::Operator("!=") => Comparison::Ne,
                Token::Operator("<") => Comparison::Lt,
                Token::Operator("<=") => Comparison::Le,
                Token::Operator(">") => Comparison::Gt,
                Token::Operator(">=") => Comparison::Ge,
                Token::Name(name) if name == "in" => Comparison::In,
                Token::Name(name)
                    if name == "not" && matches!(self.look(), Token::Name(n) if n == "in") =>
                {
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Expr::Compare(Box::new(first), rest)
        })
    }

    fn chain(
        &mut self,
        operators: &[(&str, Operator)],
        part: fn(&mut Self) -> Result<Expr>,
    ) -> Result<Expr> {
        let first = part(self)?;
        let mut rest = Vec::new();
        while let Some(&(text, operator)) = operators.iter().find(|(text, _)| self.is(text)) {
            self.skip(text);
            rest.push((operator, part(self)?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Expr::Chain(Box::new(first), rest)
        })
    }

    fn sum(&mut self) -> Result<Expr> {
        self.chain(&[("+", Operator::Add), ("-", Operator::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Result<Expr> {
        let first = self.product()?;
        if !self.is("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip("~") {
            all.push(self.product()?);
        }
        Ok(Expr::Concat(all))
    }

    fn product(&mut self) -> Result<Expr> {
        let operators = [
            ("*", Operator::Mul),
            ("/", Operator::Div),
            ("//", Operator::FloorDiv),
            ("%", Operator::Mod),
        ];
        self.chain(&operators, Self::power)
    }

    fn power(&mut self) -> Result<Expr> {
        self.chain(&[("**", Operator::Pow)], |p| p.unary(true))
    }

    fn unary(&mut self, filters: bool) -> Result<Expr> {
        let value = if self.skip("-") {
            Expr::Minus(Box::new(self.deeper(|p| p.unary(false))?))
        } else if self.skip("+") {
            Expr::Plus(Box::new(self.deeper(|p| p.unary(false))?))
        } else {
            self.primary()?
        };
        let mut posts = Vec::new();
        while self.postfix(&mut posts)? {}
        while filters && self.filter_or_test(&mut posts)? {}
        Ok(if posts.is_empty() {
            value
        } else {
            Expr::Postfix(Box::new(value), posts)
        })
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.next() {
            Token::Name(name) => Ok(match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                name => {
                    if let Some(i) = SPECIAL.iter().position(|s| *s == name) {
                        self.special.iter_mut().for_each(|used| used[i] = true);
                    }
                    Expr::Name(name.into())
                }
            }),
            Token::Text(mut text) => {
                while let Token::Text(more) = self.token() {
                    text.push_str(more);
                    self.at += 1;
                }
                Ok(Expr::Text(text.into()))
            }
            Token::Int(value) => Ok(Expr::Int(value)),
            Token::Float(value) => Ok(Expr::Float(value)),
            Token::Operator("(") => {
                let value = self.deeper(|p| p.tuple(true, &[]))?;
                self.expect(")")?;
                Ok(value)
            }
            Token::Operator("[") => self.list(),
            Token::Operator("{") => self.dict(),
            other => {
                self.at -= 1;
                self.fail(format!("unexpected {}", describe(&other)))
            }
        }
    }

    fn list(&mut self) -> Result<Expr> {
        let mut items = Vec::new();
        while !self.is("]") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.is("]") {
                    break;
                }
            }
            items.push(self.expression()?);
        }
        self.expect("]")?;
        Ok(Expr::List(items))
    }

    fn dict(&mut self) -> Result<Expr> {
        let mut items = Vec::new();
        while !self.is("}") {
            if !items.is_empty() {
                self.expect(",")?;
                if self.is("}") {
                    break;
                }
            }
            let key = self.expression()?;
            self.expect(":")?;
            items.push((key, self.expression()?));
        }
        self.expect("}")?;
        Ok(Expr::Dict(items))
    }

    /// `.a`, `[a]` or `(a)`.
    fn postfix(&mut self, posts: &mut Vec<Post>) -> Result<bool> {
        if self.skip(".") {
            posts.push(match self.next() {
                Token::Name(name) => Post::Attribute(name.as_str().into()),
                Token::Int(value) => Post::Item(Expr::Int(value)),
                _ => return self.fail("expected a name or a number after a dot"),
            });
        } else if self.skip("[") {
            let mut items = Vec::new();
            while !self.is("]") {
                if !items.is_empty() {
                    self.expect(",")?;
                }
                items.push(self.subscript()?);
            }
            self.expect("]")?;
            posts.push(match items.pop() {
                Some(only) if items.is_empty() => only,
                last => {
                    let item = |post| match post {
                        Post::Item(value) => Some(value),
                        _ => None,
                    };
                    match items.into_iter().chain(last).map(item).collect() {
                        Some(items) => Post::Item(Expr::Tuple(items)),
                        None => return self.fail("slices cannot be items of a tuple"),
                    }
                }
            });
        } else if self.is("(") {
            posts.push(Post::Call(self.args()?));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn subscript(&mut self) -> Result<Post> {
        let mut parts = [None, None, None];
        if !self.is(":") {
            let first = self.expression()?;
            if !self.is(":") {
                return Ok(Post::Item(first));
            }
            parts[0] = Some(first);
        }
        for part in &mut parts[1..] {
            if !self.skip(":") {
                break;
            }
            if !self.is(":") && !self.is("]") && !self.is(",") {
                *part = Some(self.expression()?);
            }
        }
        Ok(Post::Slice(Box::new(parts)))
    }

    fn args(&mut self) -> Result<Args> {
        let mut args = Args::default();
        let mut first = true;
        self.expect("(")?;
        while !self.is(")") {
            if !std::mem::take(&mut first) {
                self.expect(",")?;
                if self.is(")") {
                    break;
                }
            }
            let open = args.more.is_none() && args.more_named.is_none();
            let named = matches!(
                (self.token(), self.look()),
                (Token::Name(_), Token::Operator("="))
            );
            let fits = if self.skip("*") {
                args.more = Some(Box::new(self.expression()?));
                open
            } else if self.skip("**") {
                let fits = args.more_named.is_none();
                args.more_named = Some(Box::new(self.expression()?));
                fits
            } else if named {
                let name = self.name()?;
                self.at += 1;
                let twice = args.named.iter().any(|(n, _)| *n == name);
                args.named.push((name, self.expression()?));
                args.more_named.is_none() && !twice
            } else {
                args.positional.push(self.expression()?);
                open && args.named.is_empty()
            };
            if !fits {
                return self.fail("arguments in a wrong order");
            }
        }
        self.expect(")")?;
        Ok(args)
    }

    /// A name with dots, and arguments if there are any.
    fn called(&mut self) -> Result<Call> {
        let mut name = self.name()?.to_string();
        while self.skip(".") {
            name = format!("{name}.{}", self.name()?);
        }
        let args = if self.is("(") {
            self.args()?
        } else {
            Args::default()
        };
        Ok(Call {
            name: name.into(),
            args,
        })
    }

    /// `|a|b`, the first with its bar unless `inline`.
    fn filters(&mut self, mut inline: bool) -> Result<Vec<Call>> {
        let mut filters = Vec::new();
        while std::mem::take(&mut inline) || self.skip("|") {
            filters.push(self.called()?);
        }
        Ok(filters)
    }

    fn filter_or_test(&mut self, posts: &mut Vec<Post>) -> Result<bool> {
        if self.skip("|") {
            posts.push(Post::Filter(self.called()?));
        } else if self.skip_name("is") {
            let negated = self.skip_name("not");
            let mut call = self.called_without_args()?;
            let value = match self.token() {
                Token::Operator("(") => {
                    call.args = self.args()?;
                    false
                }
                Token::Name(name) if name == "is" => {
                    return self.fail("tests cannot be chained");
                }
                Token::Name(name) => !matches!(name.as_str(), "else" | "or" | "and"),
                Token::Text(_) | Token::Int(_) | Token::Float(_) => true,
                Token::Operator(o) => matches!(*o, "[" | "{"),
                _ => false,
            };
            if value {
                let value = self.primary()?;
                let mut inner = Vec::new();
                while self.postfix(&mut inner)? {}
                let value = if inner.is_empty() {
                    value
                } else {
                    Expr::Postfix(Box::new(value), inner)
                };
                call.args.positional.push(value);
            }
            posts.push(Post::Test(call, negated));
        } else if self.is("(") {
            posts.push(Post::Call(self.args()?));
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn called_without_args(&mut self) -> Result<Call> {
        let mut name = self.name()?.to_string();
        while self.skip(".") {
            name = format!("{name}.{}", self.name()?);
        }
        Ok(Call {
            name: name.into(),
            args: Args::default(),
        })
    }
}
