"""Chat templates with the features of public ones, in words of our own."""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2000" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set first = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nKnowledge until: spring 2023\\nToday: " }}
{{- date_string + "\\n\\n" + first + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are of help.<|im_end|>\\n' }}{% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}{% endif %}
"""

QWEN3 = """{%- set last = namespace(question=-1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}{%- set last.question = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set said = message.content %}
        {%- set thought = '' %}
        {%- if '</think>' in said %}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > last.question %}
            {{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- said + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA2 = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('There is no system role here') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must take turns: user, assistant, user, ...') }}{% endif %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}
{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}{% endif %}
"""

GEMMA3 = """{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}
    {%- set above = messages[0]['content'] + '\\n\\n' -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set above = '' -%}
    {%- set rest = messages -%}
{%- endif -%}
{%- for message in rest -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must take turns') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (above if loop.first else '') }}
    {{- message['content'] | trim }}{{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""

PHI3 = """{% for message in messages %}{% if message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + '<|end|>\\n' }}{% elif message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + '<|end|>\\n' }}{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set above = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in turns %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("User and assistant must take turns after an optional system turn") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {{- "[INST]" }}
        {%- if loop.last and above is defined %}{{- " " + above + "\\n\\n" + message["content"] }}
        {%- else %}{{- " " + message["content"] }}{%- endif %}
        {{- "[/INST]" }}
    {%- else %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}
{% set above = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% set turns = messages[1:] %}{% else %}{% set above = '' %}{% set turns = messages %}{% endif %}
{% for message in turns %}{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (above if loop.first else '') }}
{{- message['content'].strip() + ' [/INST]' }}
{%- else %}
{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}
"""

ZEPHYR = """{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|assistant|>\\n' }}{% endif %}
"""

PLAIN = """{% for message in messages %}
{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' %}
{{ 'Human: ' + message['content'] + '\\n' }}
{%- else %}
{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}
{{ 'Assistant:' }}{% endif %}
"""

PROMPTER = """{% for message in messages %}
{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}
{%- elif message['role'] == 'user' %}{{ '<|prompter|>' + message['content'] + eos_token }}
{%- else %}{{ '<|system|>' + message['content'] + eos_token }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""

SOLAR = """{% for message in messages %}
{% if message['role'] == 'system' %}{{ '### System:\\n' + message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'user' %}{{ '### User:\\n' + message['content'] + '\\n\\n' }}
{%- else %}{{ '### Assistant:\\n' + message['content'] + eos_token + '\\n\\n' }}
{%- endif %}{% endfor %}
{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"""

EXAONE = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}
{{ '[|' + message['role'] + '|]' + message['content'] }}
{%- if message['role'] != 'user' %}{{ '[|endofturn|]' }}{% endif %}
{%- if not loop.last or add_generation_prompt %}{{ '\\n' }}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"""

GRANITE = """{%- if messages[0]['role'] == 'system' %}
    {%- set above = messages[0]['content'] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set above = "Today is " + strftime_now('%B %d, %Y') + "." %}
    {%- set turns = messages %}
{%- endif %}
{{- '<|start_of_role|>system<|end_of_role|>' + above + '<|end_of_text|>\\n' }}
{%- for message in turns %}
    {{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] }}
    {{- '<|end_of_text|>\\n' }}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|start_of_role|>assistant<|end_of_role|>' }}
    {%- endif %}
{%- endfor %}"""

OLMO = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ '<|system|>\\n' + message['content'] + '\\n' }}
{%- elif message['role'] == 'user' %}{{ '<|user|>\\n' + message['content'] + '\\n' }}
{%- elif not loop.last %}{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}
{%- else %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}{% endif %}
{%- if loop.last and add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}{% endfor %}"""

SMOLLM3 = """{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- set mode = '/think' if enable_thinking else '/no_think' %}
{%- set own = messages[0].content.rstrip() if messages[0].role == 'system' else '' %}
{{- "<|im_start|>system\\n## About\\n\\nToday: " + strftime_now("%d %B %Y") + "\\n" }}
{{- "Mode: " + mode + "\\n\\n## What to do\\n\\n" + own + "<|im_end|>\\n" }}
{%- for message in messages if message.role != 'system' %}
    {%- if message.role == 'user' %}
        {{- "<|im_start|>user\\n" + message.content + "<|im_end|>\\n" }}
    {%- else %}
        {% generation %}
        {%- if mode == '/think' %}
            {{- "<|im_start|>assistant\\n" + message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- else %}
            {{- "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" }}
            {{- message.content.lstrip("\\n") + "<|im_end|>\\n" }}
        {%- endif %}
        {% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|im_start|>assistant\\n" + ("" if mode == '/think' else "<think>\\n\\n</think>\\n") }}
{%- endif %}"""

REASONER = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}{{ message['content'] }}
{%- elif message['role'] == 'user' %}{{ '<|User|>' + message['content'] }}
{%- else %}{{ '<|Assistant|>' + message['content'].split('</think>')[-1] + '<|end|>' }}
{%- endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"""

# CHATML whose template itself shows tools, calls and results, as Hermes' and Qwen's do.
CHATML_TOOLS = """{%- set turns = messages %}
{%- set above = 'You are of help.' %}
{%- if messages[0].role == 'system' %}
    {%- set above = messages[0].content %}
    {%- set turns = messages[1:] %}
{%- endif %}
{{- '<|im_start|>system\\n' + above }}
{%- if tools %}
    {{- '\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user ' }}
    {{- 'query.\\n\\n' }}
    {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and ' }}
    {{- 'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n{\\"name\\": ' }}
    {{- '<function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for turn in turns %}
    {%- if turn.role == 'tool' %}
        {%- if loop.first or turns[loop.index0 - 1].role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + turn.content + '\\n</tool_response>' }}
        {%- if loop.last or turns[loop.index0 + 1].role != 'tool' %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + turn.role }}
        {%- if turn.content %}{{- '\\n' + turn.content }}{%- endif %}
        {%- for call in turn.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{\\"name\\": \\"' + call.function.name }}
            {{- '\\", \\"arguments\\": ' }}
            {{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
