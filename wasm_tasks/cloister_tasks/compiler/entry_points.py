"""What a task's entry points are in C, with places for what differs between tasks."""

ENTRY_POINTS = """
CLOISTER_EXPORT(init) int32_t init(int64_t from) {{
    uint32_t key = philox_key((uint64_t)from, 0);
    (void)key;
{init}
    return CLOISTER_OK;
}}

CLOISTER_EXPORT(reset) int32_t reset(void) {{
    fault = -1;
    steps = 0;
    counted = 0;
    index_out_of_range = 0;
{reset}
    return CLOISTER_OK;
}}

static int32_t failed(void) {{
    if (!index_out_of_range) return CLOISTER_OK;
    index_out_of_range = 0;
    return CLOISTER_INDEX;
}}

{train}

CLOISTER_EXPORT(evaluate) int32_t evaluate(int32_t rows) {{
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
    for (int32_t at = 0; at < rows; at += BATCH) {{ /* before anything changes */
        stage(at, min_int(BATCH, rows - at));
        int32_t status = check_evaluate(at);
        if (status) return status;
    }}
    for (int32_t at = 0; at < rows; at += BATCH) {{
        int32_t n = min_int(BATCH, rows - at);
        stage(at, n);
        run_evaluate();
        add_evaluate(n);
    }}
    return failed();
}}

CLOISTER_EXPORT(predict) int32_t predict(int32_t rows) {{
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
    for (int32_t at = 0; at < rows; at += BATCH) {{
        int32_t n = min_int(BATCH, rows - at);
        stage(at, n);
        int32_t status = check_predict(at);
        if (status) return status;
        run_predict();
        put_outputs(at, n);
    }}
    return failed();
}}
"""
"""The file's end: everything but ``train``, which is one of the two below."""

TRAIN = """CLOISTER_EXPORT(train) int32_t train(int32_t rows) {{
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
    if ({batch_rule}) return CLOISTER_VALUE;
    for (int32_t at = 0; at < rows; at += BATCH) {{ /* before anything changes */
        stage(at, min_int(BATCH, rows - at));
        int32_t status = check_train(at);
        if (status) return status;
    }}
    for (int32_t at = 0; at < rows; at += batch_size) {{
        int32_t n = min_int(batch_size, rows - at);{leftover}
        stage(at, n);
        steps++;
        step_key = philox_key((uint64_t)seed, (uint32_t)step + (uint32_t)steps);
{scalars}
        run_train();
        add_train(n);
    }}
    return failed();
}}"""
"""Batch by batch."""

TRAIN_BY_ROW = """CLOISTER_EXPORT(train) int32_t train(int32_t rows) {{
    if (rows < 0 || rows > CAPACITY) return CLOISTER_TOO_MANY;
    if ({batch_rule}) return CLOISTER_VALUE;
    for (int32_t at = 0; at < rows; at++) {{ /* before anything changes */
        stage_row(at);
        int32_t status = check_train(at);
        if (status) return status;
    }}
    for (int32_t at = 0; at < rows; at += batch_size) {{
        int32_t n = min_int(batch_size, rows - at);
        steps++;
        CLOISTER_ZERO(state_gradient_sum);
        for (int32_t row = 0; row < n; row++) {{
            stage_row(at + row);
            step_key = philox_row_key((uint64_t)seed, (uint32_t)step + (uint32_t)steps,
                                      (uint32_t)row);
            run_train();
            add_train(1);
        }}{noise}
{scalars}
        run_update();
    }}
    return failed();
}}"""
"""Row by row, an update after each batch; see :mod:`~..example_privacy`."""

NOISE = """
        const uint64_t secret[] = {{(uint64_t)noise_key0, (uint64_t)noise_key1,
                                   (uint64_t)noise_key2, (uint64_t)noise_key3}};
        uint32_t key[8];
        for (int i = 0; i < 8; i++) key[i] = (uint32_t)(secret[i / 2] >> 32 * (i % 2));
        const uint32_t nonce[] = {{(uint32_t)step + (uint32_t)steps, (uint32_t)seed,
                                  (uint32_t)((uint64_t)seed >> 32)}};
        add_gaussian_noise(state_gradient_sum, sizeof state_gradient_sum / sizeof(float),
                           {deviation}, key, nonce);"""
"""Noise on the sum of a batch's gradients.

The nonce never comes again under one key: steps count up within a round, and a device draws a key
for each round."""
