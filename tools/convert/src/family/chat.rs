//! Chat templates of families whose folders have none.

/// The ChatGLM2 form of a conversation, for GEB folders without a template. The prompt form of
/// GEB-1.3B is not published; this is the most probable one.
pub const GEB_TEMPLATE: &str = concat!(
    "{% set ns = namespace(round=0) %}{% for message in messages %}",
    "{% if message['role'] == 'user' %}{% set ns.round = ns.round + 1 %}",
    "{{ '[Round ' ~ ns.round ~ ']\\n\\n问：' ~ message['content'] ~ '\\n\\n答：' }}",
    "{% else %}{{ message['content'] ~ '\\n\\n' }}{% endif %}{% endfor %}",
);

/// The form of RWKV's World models, for folders and files without a template.
pub const RWKV_TEMPLATE: &str = concat!(
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'User: ' }}",
    "{% elif m['role'] == 'assistant' %}{{ 'Assistant: ' }}{% else %}{{ 'System: ' }}{% endif %}",
    "{{ m['content'].strip() + '\n\n' }}{% endfor %}",
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
);
