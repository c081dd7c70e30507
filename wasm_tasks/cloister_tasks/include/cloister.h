/* Writing a Cloister module in C: declare its buffers, define its entry points.
 *
 *     #include <cloister.h>
 *
 *     CLOISTER_TASK("my-task", "One line about it");
 *     CLOISTER_PARAMETER(weight, "Coefficients", 8);         // float weight[8]
 *     CLOISTER_INPUT(float, features, "Rows", 64, 8);        // float features[64][8]
 *     CLOISTER_HYPERPARAMETER(float, learning_rate, 0.1f, "Step size");
 *     CLOISTER_METRIC(loss, "Squared error");                // double loss
 *     CLOISTER_FAULT;                                        // int64_t fault
 *
 *     CLOISTER_EXPORT(train) int32_t train(int32_t rows) { ... return CLOISTER_OK; }
 *
 * Every macro leaves a descriptor in the module's data; the builder reads them after linking and
 * writes the manifest. A module may define any number of further globals: the host never touches
 * what is not declared here. There is no libc and no import: memory is what you declare.
 *
 * Parameters are float. All of them form one gapless block, in the order of their declaration.
 */
#ifndef CLOISTER_H
#define CLOISTER_H

#include <stddef.h>
#include <stdint.h>

/* Status codes; the task's own begin at CLOISTER_OWN. */
enum {
    CLOISTER_OK = 0,
    CLOISTER_TOO_MANY = 1,         /* more rows or columns than the buffers hold, or fewer than 0 */
    CLOISTER_INDEX = 2,            /* a label or index is out of range: set fault to its row */
    CLOISTER_NOT_FINITE = 3,       /* a value is infinite or no number */
    CLOISTER_TOO_MANY_UPDATES = 4, /* more updates than this aggregation can hold */
    CLOISTER_VALUE = 5,            /* a hyperparameter, weight or total is out of range */
    CLOISTER_OWN = 64
};

/* Numbers of cloister.v1.Role and cloister.v1.DType. */
enum {
    CLOISTER_ROLE_PARAMETER = 1,
    CLOISTER_ROLE_FROZEN = 2,
    CLOISTER_ROLE_LOCAL = 3,
    CLOISTER_ROLE_OPTIMIZER = 4,
    CLOISTER_ROLE_INPUT = 5,
    CLOISTER_ROLE_HYPERPARAMETER = 6,
    CLOISTER_ROLE_METRIC = 7,
    CLOISTER_ROLE_OUTPUT = 8,
    CLOISTER_ROLE_FAULT = 9,
    CLOISTER_ROLE_UPDATE = 10,
    CLOISTER_ROLE_WEIGHT = 11,
    CLOISTER_ROLE_ACCUMULATOR = 12,
    CLOISTER_ROLE_MODEL = 13,
    CLOISTER_ROLE_SERVER_STATE = 14,
    CLOISTER_ROLE_TOTAL = 15,
    CLOISTER_ROLE_MASK = 16
};

/* In place of a role: what holds for the module as a whole. */
enum { CLOISTER_HOLDS_LINEAR = 256, CLOISTER_HOLDS_UNWEIGHTED = 257 };

#define CLOISTER_DTYPE(type) \
    _Generic((type)0, float: 1, double: 2, int32_t: 3, int64_t: 4, uint8_t: 5, int8_t: 6)

#define CLOISTER_MAX_DIMENSIONS 8

/* What the builder reads; cloister_tasks/toolchain.py knows this layout. */
struct cloister_descriptor {
    const char *name;
    const char *description;
    const void *address;
    uint32_t role;
    uint32_t dtype;
    uint32_t dimensions;
    uint32_t shape[CLOISTER_MAX_DIMENSIONS];
};

#define CLOISTER_EXPORT(name) __attribute__((export_name(#name)))

/* Name and description of the module. */
#define CLOISTER_TASK(name_, description_)                                      \
    __attribute__((used, section("cloister_descriptors"))) static const struct  \
        cloister_descriptor cloister_task = {.name = name_, .description = description_}

#define CLOISTER_DESCRIBE_(identifier, name_, role_, type, description_, ...)                  \
    __attribute__((used, section("cloister_descriptors"))) static const struct                 \
        cloister_descriptor identifier##_descriptor = {                                        \
            .name = name_,                                                                     \
            .description = description_,                                                       \
            .address = &identifier,                                                            \
            .role = role_,                                                                     \
            .dtype = CLOISTER_DTYPE(type),                                                     \
            .dimensions = sizeof((uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t),                \
            .shape = {__VA_ARGS__}}

/* An array of up to four dimensions from a list of them. */
#define CLOISTER_ARRAY_(...) \
    CLOISTER_PICK_(__VA_ARGS__, CLOISTER_4_, CLOISTER_3_, CLOISTER_2_, CLOISTER_1_)(__VA_ARGS__)
#define CLOISTER_PICK_(a, b, c, d, pick, ...) pick
#define CLOISTER_1_(a) [a]
#define CLOISTER_2_(a, b) [a][b]
#define CLOISTER_3_(a, b, c) [a][b][c]
#define CLOISTER_4_(a, b, c, d) [a][b][c][d]

#define CLOISTER_BUFFER_(role, type, identifier, name, description, placement, ...)       \
    __attribute__((used, placement)) type identifier CLOISTER_ARRAY_(__VA_ARGS__);        \
    CLOISTER_DESCRIBE_(identifier, name, role, type, description, __VA_ARGS__)

/* Buffers of one section lie one after the other, in the order of their declaration; the first
 * begins on a cache line, the others (clang would align larger arrays to 16) leave no gap. */
#define CLOISTER_BLOCK_(name) aligned(4), section(".bss.cloister." name)
__attribute__((used, aligned(64), CLOISTER_BLOCK_("parameter"))) static char cloister_parameter[0];
__attribute__((used, aligned(64), CLOISTER_BLOCK_("frozen"))) static char cloister_frozen[0];

/* A buffer whose name in the manifest is not its name in C ("layer0.weight"). */
#define CLOISTER_NAMED_PARAMETER(identifier, name, description, ...)                    \
    CLOISTER_BUFFER_(CLOISTER_ROLE_PARAMETER, float, identifier, name, description,     \
                     CLOISTER_BLOCK_("parameter"), __VA_ARGS__)
#define CLOISTER_NAMED_BUFFER(role, type, identifier, name, description, ...)           \
    CLOISTER_BUFFER_(CLOISTER_ROLE_##role, type, identifier, name, description,         \
                     aligned(64), __VA_ARGS__)

/* (name, "description", dimensions...) */
#define CLOISTER_PARAMETER(identifier, description, ...) \
    CLOISTER_NAMED_PARAMETER(identifier, #identifier, description, __VA_ARGS__)
#define CLOISTER_FROZEN(identifier, description, ...)                                       \
    CLOISTER_BUFFER_(CLOISTER_ROLE_FROZEN, float, identifier, #identifier, description,     \
                     CLOISTER_BLOCK_("frozen"), __VA_ARGS__)

/* (type, name, "description", dimensions...); the first dimension of inputs and outputs is the
 * capacity in rows, the same for all of them. */
#define CLOISTER_INPUT(type, identifier, description, ...) \
    CLOISTER_NAMED_BUFFER(INPUT, type, identifier, #identifier, description, __VA_ARGS__)
#define CLOISTER_OUTPUT(type, identifier, description, ...) \
    CLOISTER_NAMED_BUFFER(OUTPUT, type, identifier, #identifier, description, __VA_ARGS__)
#define CLOISTER_LOCAL(type, identifier, description, ...) \
    CLOISTER_NAMED_BUFFER(LOCAL, type, identifier, #identifier, description, __VA_ARGS__)
#define CLOISTER_OPTIMIZER(type, identifier, description, ...) \
    CLOISTER_NAMED_BUFFER(OPTIMIZER, type, identifier, #identifier, description, __VA_ARGS__)

/* One number the job may set; the value given here is its default. */
#define CLOISTER_HYPERPARAMETER(type, identifier, value, description)                            \
    __attribute__((used)) type identifier = value;                                               \
    CLOISTER_DESCRIBE_(identifier, #identifier, CLOISTER_ROLE_HYPERPARAMETER, type, description)

/* A sum over the rows seen since `reset`. */
#define CLOISTER_METRIC(identifier, description) \
    CLOISTER_NAMED_METRIC(identifier, #identifier, description)
#define CLOISTER_NAMED_METRIC(identifier, name, description)                                     \
    __attribute__((used)) double identifier;                                                     \
    CLOISTER_DESCRIBE_(identifier, name, CLOISTER_ROLE_METRIC, double, description)

/* int64_t fault: the row a non-zero status is about, or -1. */
#define CLOISTER_FAULT                                                                           \
    __attribute__((used)) int64_t fault = -1;                                                    \
    CLOISTER_DESCRIBE_(fault, "fault", CLOISTER_ROLE_FAULT, int64_t,                             \
                       "Row a non-zero status is about, or -1")

/* For aggregations that use nothing of the updates but their sum: each times its weight, or as it
 * is if the module is unweighted too. Secure aggregation, which reveals only the sum, needs it. */
#define CLOISTER_LINEAR CLOISTER_HOLDS_(cloister_linear, CLOISTER_HOLDS_LINEAR)
/* For aggregations that leave the weights aside. */
#define CLOISTER_UNWEIGHTED CLOISTER_HOLDS_(cloister_unweighted, CLOISTER_HOLDS_UNWEIGHTED)
#define CLOISTER_HOLDS_(identifier, what)                                       \
    __attribute__((used, section("cloister_descriptors"))) static const struct  \
        cloister_descriptor identifier = {.role = what}

/* Aggregations; the capacities are columns of the model, and elements and rows of updates. */
#define CLOISTER_MODEL(columns) \
    CLOISTER_NAMED_BUFFER(MODEL, float, model, "model", "The model, then the next one", columns)
#define CLOISTER_UPDATE(elements) \
    CLOISTER_NAMED_BUFFER(UPDATE, float, update, "update", "Updates, [rows][columns]", elements)
#define CLOISTER_WEIGHT(rows) \
    CLOISTER_NAMED_BUFFER(WEIGHT, double, weight, "weight", "Weight of each update", rows)
#define CLOISTER_ACCUMULATOR(type, identifier, description, ...) \
    CLOISTER_NAMED_BUFFER(ACCUMULATOR, type, identifier, #identifier, description, __VA_ARGS__)
#define CLOISTER_SERVER_STATE(identifier, description, columns)                     \
    CLOISTER_NAMED_BUFFER(SERVER_STATE, float, identifier, #identifier, description, columns)
#define CLOISTER_TOTAL                                                              \
    __attribute__((used)) double total;                                             \
    CLOISTER_DESCRIBE_(total, "total", CLOISTER_ROLE_TOTAL, double, "Weight of all updates")

/* Aggregations of masked updates have these two in place of updates, weights and total. */
#define CLOISTER_PACKED_UPDATE(bytes)                                                  \
    CLOISTER_NAMED_BUFFER(UPDATE, uint8_t, update, "update", "Packed updates, [rows]", \
                          bytes)
#define CLOISTER_MASK(columns)                                                             \
    CLOISTER_NAMED_BUFFER(MASK, uint8_t, mask, "mask", "What the masks come to, by column", \
                          8 * (columns))

/* Set every byte of a buffer to zero. */
#define CLOISTER_ZERO(buffer) __builtin_memset(&(buffer), 0, sizeof(buffer))

#endif
