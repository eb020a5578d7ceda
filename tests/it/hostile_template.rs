//! Chat templates that try to take the program down. None may panic, run long, or take much
//! memory; the bounds are steps and bytes, so no clock is needed.

use geb::Error;
use geb::chat::{ChatTemplate, Message};

fn run(source: &str) -> geb::Result<String> {
    let messages = [Message::new("system", "s"), Message::new("user", "u x u")];
    ChatTemplate::from_source(source, "<s>", "</s>")?.render(&messages, true)
}

fn refused(name: &str, source: &str) {
    let start = std::time::Instant::now();
    let result = run(source);
    println!("{:>8.1?} {name:.60}", start.elapsed());
    match result {
        Err(Error::Template(why)) => assert!(
            why.len() < 2_000,
            "{name}: a message of {} bytes",
            why.len()
        ),
        Err(other) => panic!("{name}: {other}"),
        Ok(text) => panic!("{name}: rendered {} bytes: {:.60}", text.len(), text),
    }
}

fn many(times: usize, unit: &str) -> String {
    unit.repeat(times)
}

#[test]
fn steps_are_bounded() {
    refused(
        "nested loops",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    );
    refused(
        "loop of loops",
        &format!(
            "{}x{}",
            many(60, "{% for a in range(9) %}"),
            many(60, "{% endfor %}")
        ),
    );
    refused(
        "macro that calls itself",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    );
    refused(
        "macros that call each other",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    );
    refused(
        "macro that forks",
        "{% macro m(n) %}{% if n %}{{ m(n-1) }}{{ m(n-1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    );
    refused(
        "recursive loop",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    );
    refused(
        "range too long",
        "{% for a in range(100000000) %}{% endfor %}",
    );
    refused(
        "range to the end",
        "{{ range(9223372036854775807)|length }}",
    );
    refused(
        "range of negative steps",
        "{{ range(0, -9223372036854775807, -1)|list }}",
    );
    refused("range without a step", "{{ range(0, 10, 0)|list }}");
    refused(
        "sorting over and over",
        "{% set r = range(9999) %}{% for i in r %}{% set x = r|sort|last %}{% endfor %}",
    );
    refused(
        "searching over and over",
        "{% set s = 'a' * 4000000 %}{% for i in range(9999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
    );
    refused(
        "comparing over and over",
        "{% set s = 'a' * 4000000 %}{% set t = 'a' ~ s %}{% set u = 'a' ~ s %}{% for i in range(9999) %}{% if t == u %}{% endif %}{% endfor %}",
    );
    refused(
        "upper case over and over",
        "{% set s = 'a' * 4000000 %}{% for i in range(9999) %}{% set t = s.upper() %}{% endfor %}",
    );
}

#[test]
fn memory_is_bounded() {
    refused("huge repeat", "{{ 'x' * 100000000 }}");
    refused("huge repeat from the left", "{{ 100000000 * 'x' }}");
    refused("many constants", &many(5_000, "{{ 'x' * 99999999 }}"));
    refused("huge list", "{{ ([1] * 100000000)|length }}");
    refused("overflowing repeat", "{{ 'xx' * 9223372036854775807 }}");
    refused(
        "doubling",
        &format!(
            "{{% set a = 'x' %}}{}{{{{ a|length }}}}",
            many(60, "{% set a = a ~ a %}")
        ),
    );
    refused(
        "doubling in a loop",
        "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    );
    refused(
        "doubling by plus",
        "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    );
    refused(
        "doubling lists",
        "{% set n = namespace(a=[1]) %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}",
    );
    refused(
        "doubling by a macro",
        "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('x') }}",
    );
    refused(
        "doubling by blocks",
        &format!(
            "{{% set a = 'x' %}}{}",
            many(60, "{% set a %}{{ a }}{{ a }}{% endset %}")
        ),
    );
    refused(
        "raw text in a block",
        &format!(
            "{{% set a %}}{{% for i in range(9999) %}}{}{{% endfor %}}{{% endset %}}",
            many(100_000, "x")
        ),
    );
    refused(
        "growing by replace",
        &format!(
            "{{% set a = 'xx' %}}{}",
            many(60, "{% set a = a|replace('x', 'xx') %}")
        ),
    );
    refused(
        "growing by a method",
        &format!(
            "{{% set a = 'xx' %}}{}",
            many(60, "{% set a = a.replace('x', a) %}")
        ),
    );
    refused(
        "growing by join",
        &format!(
            "{{% set a = 'xx' %}}{}",
            many(60, "{% set a = [a, a]|join(a) %}")
        ),
    );
    refused(
        "growing by join of a string",
        &format!(
            "{{% set a = 'xx' %}}{}",
            many(60, "{% set a = a.join([a, a, a]) %}")
        ),
    );
    refused(
        "growing by tojson",
        &format!(
            "{{% set a = '\"' %}}{}",
            many(60, "{% set a = (a ~ a)|tojson %}")
        ),
    );
    refused("indent", "{{ 'a\nb'|indent(9999999999) }}");
    refused(
        "many indents",
        "{{ ('\n' * 1000000)|indent(1000, true, true) }}",
    );
    refused("format", "{{ '{:>999999999}'.format(1) }}");
    refused("percent format", "{{ '%999999999d'|format(1) }}");
    refused(
        "long output",
        &format!(
            "{{% for i in range(9999) %}}{}{{% endfor %}}",
            many(1_000, "x")
        ),
    );
    refused(
        "many parts",
        "{% set s = 'a ' * 2000000 %}{% set t = s.split() %}{% set u = s.split('a') %}",
    );
    refused(
        "characters as list",
        "{% set s = 'a' * 4000000 %}{% set t = s|list %}",
    );
    refused(
        "slices over and over",
        "{% set s = 'a' * 4000000 %}{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + [s[1:]] %}{% endfor %}",
    );
}

#[test]
fn nesting_is_bounded() {
    refused(
        "parentheses",
        &format!("{{{{ {}1{} }}}}", many(5_000, "("), many(5_000, ")")),
    );
    refused(
        "brackets",
        &format!("{{{{ {}{} }}}}", many(400, "["), many(400, "]")),
    );
    refused("negations", &format!("{{{{ {}1 }}}}", many(50_000, "not ")));
    refused("minuses", &format!("{{{{ {}1 }}}}", many(100_000, "-")));
    refused("attributes", &format!("{{{{ a{} }}}}", many(100_000, ".a")));
    refused("subscripts", &format!("{{{{ a{} }}}}", many(60_000, "[0]")));
    refused("calls", &format!("{{{{ a{} }}}}", many(100_000, "()")));
    refused("filters", &format!("{{{{ a{} }}}}", many(50_000, "|trim")));
    refused("sums", &format!("{{{{ 1{} }}}}", many(100_000, "+1")));
    refused(
        "concatenations",
        &format!("{{{{ 1{} }}}}", many(100_000, "~1")),
    );
    refused(
        "conditions",
        &format!("{{{{ 1{} }}}}", many(20_000, " if 1 else 1")),
    );
    refused(
        "branches",
        &format!("{{% if 0 %}}{}{{% endif %}}", many(20_000, "{%elif 0%}")),
    );
    refused(
        "blocks",
        &format!(
            "{}{}",
            many(10_000, "{% if 1 %}"),
            many(10_000, "{% endif %}")
        ),
    );
    refused("blocks without end", &many(20_000, "{% if 1 %}"));
    refused(
        "lists that hold each other",
        "{% set n = namespace(a=[]) %}{% for i in range(9999) %}{% set n.a = [n.a] %}{% endfor %}",
    );
    refused(
        "maps that hold each other",
        "{% set n = namespace(a={}) %}{% for i in range(9999) %}{% set n.a = {'a': n.a} %}{% endfor %}",
    );
    refused(
        "namespaces that hold each other",
        "{% set n = namespace(a=0) %}{% for i in range(9999) %}{% set n.a = namespace(a=n.a) %}{% endfor %}",
    );
    refused(
        "lists that double",
        &format!(
            "{{% set a = [1] %}}{}{{{{ a }}}}",
            many(40, "{% set a = [a, a] %}")
        ),
    );
    refused(
        "lists that double as JSON",
        &format!(
            "{{% set a = [[], []] %}}{}{{{{ a|tojson }}}}",
            many(14, "{% set a = [a, a, a, a, a] %}")
        ),
    );
}

#[test]
fn wrong_types_and_missing_things_are_errors() {
    for source in [
        "{{ missing.attribute }}",
        "{{ missing() }}",
        "{{ messages() }}",
        "{{ messages[0].content.nothing() }}",
        "{{ messages|no_such_filter }}",
        "{{ messages is no_such_test }}",
        "{{ 1 + 'a' }}",
        "{{ messages + 1 }}",
        "{{ 'a' * 'b' }}",
        "{{ 1 // 0 }}",
        "{{ 9223372036854775807 ** 9 }}",
        "{{ raise_exception('no') }}",
        "{{ raise_exception(messages) }}",
        "{% for a in 5 %}{% endfor %}",
        "{% for a in none %}{% endfor %}",
        "{{ missing[1:] }}",
        "{{ [1][::0] }}",
        "{{ [1]|map('string')|tojson }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{% from '/etc/passwd' import p %}",
        "{% extends '/etc/passwd' %}",
        "{% block a %}{% endblock %}",
        "{{ none[1:] }}",
        "{% if %}{% endif %}",
        "{{ 'unterminated }}",
        "{{ \"\\ud800\" }}",
        "{% endfor %}",
        "{%",
        "{{ debug() }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ self._TemplateReference__context }}",
        "{{ lipsum.__globals__.os.popen('id').read() }}",
        "{{ cycler.__init__.__globals__ }}",
    ] {
        refused(source, source);
    }
    refused(
        "giant source",
        &many(geb::limits::MAX_TEMPLATE_BYTES + 1, "x"),
    );
}

#[test]
fn limits_are_limits_and_not_less() {
    let exact = many(geb::limits::MAX_TEMPLATE_BYTES, "x");
    assert_eq!(run(&exact).expect("renders").len(), exact.len());
    let megabyte = "{% for i in range(1000) %}".to_owned() + &many(1_000, "x") + "{% endfor %}";
    assert_eq!(run(&megabyte).expect("renders").len(), 1_000_000);
    let branches = format!(
        "{{% if 0 %}}{}{{% else %}}last{{% endif %}}",
        many(250, "{%elif 0%}")
    );
    assert_eq!(run(&branches).expect("renders"), "last");
    let sums = format!("{{{{ 1{} }}}}", many(400, "+1"));
    assert_eq!(run(&sums).expect("renders"), "401");
}

/// What the rewriting must not change.
#[test]
fn ordinary_expressions_mean_what_they_mean() {
    for (source, expected) in [
        (
            "{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 2 ** 3 }} {{ 1 / 2 }}",
            "3 9 3 3 8 0.5",
        ),
        (
            "{{ 1.5 + 1 }} {{ 2 * 0.5 }} {{ 'a' * 3 }} {{ 2 * 'ab' }} {{ ([1, 2] * 2)|join('-') }}",
            "2.5 1.0 aaa abab 1-2-1-2",
        ),
        (
            "{{ 'abcdef'[::-1] }} {{ 'abcdef'[1:-1:2] }} {{ [1,2,3][::-1] }} {{ [][::-1] }}",
            "fedcba bd [3, 2, 1] []",
        ),
        (
            "{{ 'abc'[-9:2] }} {{ 'abc'[5:] }} {{ [1,2,3,4][-2:0:-1] }} {{ 'äöü'[:-1] }}",
            "ab  [3, 2] äö",
        ),
        (
            "{{ '<b>'|safe + '<i>' + \"'\\\"&\" }} {{ '<' + '>'|safe }} {{ '<b>'|safe ~ '<' }}",
            "<b>&lt;i&gt;&#39;&#34;&amp; &lt;> <b><",
        ),
        (
            "{% for a in missing %}x{% else %}none{% endfor %} {{ [1,2]|map('string')|list|tojson }}",
            "none [\"1\", \"2\"]",
        ),
        (
            "{{ 'a' ~ 1 ~ none ~ true }} {{ 'a' + 'b' + 'c' }} {{ [1] + [2] }}",
            "a1NoneTrue abc [1, 2]",
        ),
        (
            "{{ 1 if false }}{{ 'y' if 1 < 2 <= 2 else 'n' }} {{ not 1 == 2 }} {{ 1 in [1] and 3 not in [1] }}",
            "y True True",
        ),
        (
            "{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[1:]|length }} {{ 'abcd'[1:3] }} {{ 'abcd'[::-1] }}",
            "system u x u 1 bc dcba",
        ),
        (
            "{{ {'a': [1, 'b', none]} }} {{ (1, 2)|length }} {{ \"it's\" }} {{ [\"it's\"] }}",
            "{'a': [1, 'b', None]} 2 it's [\"it's\"]",
        ),
        (
            "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
            "12x1",
        ),
        (
            "{% for i in range(5) if i is odd %}{{ i }}{{ '' if loop.last else ',' }}{% else %}none{% endfor %}",
            "1,3",
        ),
        (
            "{% for i in [] %}{% else %}none{% endfor %}{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "none013",
        ),
        (
            "{% macro m(a, b='B', c=1 + 1) %}{{ a }}{{ b }}{{ c }}{{ caller() if caller }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {% call m('x') %}in{% endcall %}",
            "1B2 1B3 xB2in",
        ),
        (
            "{% set x %}a{{ 1 }}{% endset %}{{ x|upper }}{% set y | upper | replace('A', 'c') %}a{% endset %}{{ y }}{% filter upper %}q{% endfilter %}",
            "A1cQ",
        ),
        (
            "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{% set n = namespace(a=1, l=[]) %}{% set n.a = n.a + 1 %}{{ n.a }}",
            "32",
        ),
        (
            "{% raw %}{{ x }}{% endraw %}{# comment #}\n  {%- if true %} a {%- endif -%}  b\n",
            "{{ x }} ab",
        ),
        (
            "{{ '\\\\n\\t\"' }}{{ \"line\\nbreak\" }}",
            "\\n\t\"line\nbreak",
        ),
        (
            "{{ ' a '.strip() }}{{ 'a-b'.split('-')[1] }}{{ 'aXb'.replace('X', '') }}{{ 'ab'.startswith('a') }}",
            "ababTrue",
        ),
        ("{{ 'a{}b{}'.format(1, 'x') }}", "a1bx"),
        (
            "{{ 'a\nb'|indent(2) }} {{ 'a\nb'|indent(width=1, first=true) }} {{ [3, 1]|sort|join(', ') }} {{ 'x'|default('y') }} {{ q|default('y') }}",
            "a\n  b  a\n b 1, 3 x y",
        ),
        (
            "{% generation %}{{ 1 }}{% endgeneration %}{% for m in messages recursive %}{{ m.role }}{% endfor %}",
            "1systemuser",
        ),
        (
            "{% set f = 'a' if messages else 'b' %}{{ f }}{{ messages|map(attribute='role')|list }}",
            "a['system', 'user']",
        ),
        (
            "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ -1 + 2 }}{{ - 1 * 2 }}",
            "11-2",
        ),
    ] {
        assert_eq!(
            run(source).unwrap_or_else(|e| panic!("{source}: {e}")),
            expected,
            "{source}"
        );
    }
}

#[test]
fn messages_name_the_line() {
    let Err(Error::Template(why)) =
        run("a\n{% if true %}\nb\n{{ raise_exception('told you') }}\n{% endif %}")
    else {
        panic!("accepted")
    };
    assert!(why.contains("told you") && why.contains("chat:4"), "{why}");
}
