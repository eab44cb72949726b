/* Clients, and what a block may show them. */
#include "tests/sim/mirror_sim.h"

#include "cache-tier/store.h"
#include "resiliency/erasure.h"
#include "s2d/base/log.h"

/* ---- clients ---- */

static void fill(char *buffer, uint64_t block, uint64_t version)
{
    uint64_t *words = (uint64_t *)buffer;

    for (size_t i = 0; i < BLOCK_SIZE / 8; i += 2) {
        words[i] = version;
        words[i + 1] = block;
    }
}

static bool shows(const char *buffer, uint64_t block, struct value value)
{
    static const char zeros[BLOCK_SIZE];
    char expected[BLOCK_SIZE];

    if (value.zero)
        return memcmp(buffer, zeros, BLOCK_SIZE) == 0;
    fill(expected, block, value.version);
    return memcmp(buffer, expected, BLOCK_SIZE) == 0;
}

/* A value shows that got no answer, and for good. */
static void happened(struct cluster *cluster, uint64_t number, uint64_t version)
{
    for (size_t i = 0; i < REPEATS_MAX; i++) {
        struct repeat *repeat = &cluster->repeats[i];

        if (repeat->value.version == version && repeat->count > 0 && number >= repeat->block &&
            number < repeat->block + repeat->count)
            repeat->happened[number - repeat->block] = true;
    }
}

/* One value is right: the known one, or one that was never answered; and then it stays. */
static void saw(struct cluster *cluster, uint64_t number, const char *buffer)
{
    struct block *block = &cluster->blocks[number];
    bool right = shows(buffer, number, block->known);

    for (unsigned i = 0; !right && i < block->maybe_count; i++) {
        right = shows(buffer, number, block->maybe[i]);
        if (right) {
            block->known = block->maybe[i];
            happened(cluster, number, block->known.version);
        }
    }
    if (!right)
        fprintf(stderr, "block %llu shows version %llu, known is %llu%s, %u unanswered\n",
                (unsigned long long)number, (unsigned long long)*(const uint64_t *)buffer,
                (unsigned long long)block->known.version, block->known.zero ? " (zeros)" : "",
                block->maybe_count);
    check(cluster, right);
    block->maybe_count = 0;
}

static void wrote(struct cluster *cluster, uint64_t number, struct value value, int result)
{
    struct block *block = &cluster->blocks[number];

    block->writing = (struct value){0};
    block->changes++;
    if (result == 0 || block->seen == value.version) { /* what somebody saw has happened */
        block->known = value;
        block->maybe_count = 0;
        return;
    }
    check(cluster, result == -ESTALE || result == -ECANCELED || result == -EIO);
    check(cluster, block->maybe_count < MAYBE_MAX);
    block->maybe[block->maybe_count++] = value;
}

static uint64_t draw_block(struct cluster *cluster)
{
    uint64_t block = draw(cluster, cluster->block_count / cluster->stride) * cluster->stride;
    uint64_t place = block % cluster->slab_blocks;

    return block - place + place % cluster->used;
}

static bool take_blocks(struct cluster *cluster, uint64_t *ret_block, uint32_t *ret_count)
{
    uint32_t stripe = cluster->data_columns * PARITY_UNIT_BLOCKS;
    uint64_t block = draw_block(cluster);
    uint32_t count =
        draw(cluster, 4) == 0 ? 1 + (uint32_t)draw(cluster, cluster->request_blocks) : 1;

    if (cluster->only_column > 0) {
        block += (cluster->only_column - 1) * PARITY_UNIT_BLOCKS + block % PARITY_UNIT_BLOCKS -
                 block % stripe;
        count = 1;
    } else if (cluster->whole_stripes) {
        block -= block % stripe;
        count = stripe;
    } else if (cluster->data_columns > 1 && count > 1 && draw(cluster, 2) == 0) {
        block -= block % stripe;
    }
    count = (uint32_t)MIN(count, cluster->block_count - block);
    if (cluster->focus) {
        uint32_t at = (uint32_t)(block % cluster->slab_blocks);

        block = (uint64_t)(cluster->focus - 1) * cluster->slab_blocks + at;
        count = MIN(count, cluster->slab_blocks - at);
    }
    for (uint32_t i = 0; i < count; i++) {
        struct block *at = &cluster->blocks[block + i];

        if (at->busy || at->maybe_count == MAYBE_MAX)
            return false;
    }
    for (uint32_t i = 0; i < count; i++)
        cluster->blocks[block + i].busy = true;
    *ret_block = block;
    *ret_count = count;
    return true;
}

/* An error is an answer only where rot was planted. */
static void check_lost(struct cluster *cluster, uint64_t block, uint32_t count)
{
    bool planted = false;

    for (uint32_t i = 0; i < count; i++)
        planted = planted || cluster->blocks[block + i].rotten;
    check(cluster, planted);
    cluster->count.lost++;
}

static void co_client_read(struct node *node, char *buffer, uint64_t block, uint32_t count)
{
    struct cluster *cluster = node->cluster;
    int r = co_vdisk_read(mirror_vdisk(node->mirror), buffer, block * BLOCK_SIZE,
                          (uint64_t)count * BLOCK_SIZE);

    if (r == -EIO) {
        check_lost(cluster, block, count);
        return;
    }
    check(cluster, r == 0 || r == -ESTALE || r == -ECANCELED);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        saw(cluster, block + i, buffer + (size_t)i * BLOCK_SIZE);
    cluster->count.reads += r == 0;
}

/* Who wrote it will ask again. */
static void remember_unanswered(struct cluster *cluster, const struct repeat *repeat)
{
    for (size_t i = 0; i < REPEATS_MAX; i++) {
        if (cluster->repeats[i].count > 0)
            continue;
        cluster->repeats[i] = *repeat;
        for (uint32_t j = 0; j < repeat->count; j++)
            cluster->repeats[i].happened[j] |=
                cluster->blocks[repeat->block + j].known.version == repeat->value.version;
        return;
    }
}

static void co_client_write(struct node *node, char *buffer, uint64_t block, uint32_t count,
                            bool zero)
{
    struct cluster *cluster = node->cluster;
    struct value value = {.version = ++cluster->version, .zero = zero};
    uint64_t offset = block * BLOCK_SIZE, length = (uint64_t)count * BLOCK_SIZE;
    struct vdisk *vdisk = mirror_vdisk(node->mirror);
    struct repeat asked = {
        .block = block, .count = count, .value = value, .takeovers = cluster->count.takeovers};
    int r;

    if (cluster->repeating) /* the clients of a session are gone with it: others ask for them */
        asked.request = (struct client_request){.session = node->serving_session,
                                                .number = ++cluster->requests};
    for (uint32_t i = 0; i < count; i++) {
        fill(buffer + (size_t)i * BLOCK_SIZE, block + i, value.version);
        cluster->blocks[block + i].writing = value;
        cluster->blocks[block + i].changes++;
    }
    r = value.zero ? co_vdisk_trim(vdisk, offset, length, asked.request)
                   : co_vdisk_write(vdisk, buffer, offset, length, asked.request);
    if (r == -EIO) /* parity: the old contents of a row are lost, so it cannot be changed in part */
        check_lost(cluster, block, count);
    for (uint32_t i = 0; i < count; i++)
        wrote(cluster, block + i, value, r);
    cluster->count.writes += r == 0;
    cluster->count.unanswered += r != 0;
    if (cluster->repeating && !value.zero && (r == -ESTALE || r == -ECANCELED))
        remember_unanswered(cluster, &asked);
}

void client_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    size_t bytes = node->cluster->request_blocks * BLOCK_SIZE;
    char *buffer = co_buffer_get(node->client_buffers, bytes);

    while (!node->stopping && co_sleep_ns(draw(cluster, cluster->pause_ns)) == 0) {
        uint64_t block;
        uint32_t count;

        if (cluster->clients_stop || !node->mirror || !take_blocks(cluster, &block, &count))
            continue;
        cluster->clients_at_work++;
        if (draw(cluster, 3) == 0)
            co_client_read(node, buffer, block, count);
        else
            co_client_write(node, buffer, block, count, draw(cluster, 8) == 0);
        cluster->clients_at_work--;
        for (uint32_t i = 0; i < count; i++)
            cluster->blocks[block + i].busy = false;
    }
    buffer_put(node->client_buffers, buffer, bytes);
}

/* Never waits for a write, so it goes on where an owner can only read any more. */
void reader_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    char *buffer = co_buffer_get(node->client_buffers, BLOCK_SIZE);

    while (!node->stopping && co_sleep_ns(draw(cluster, 2 * MS)) == 0) {
        uint64_t number = draw(cluster, cluster->block_count / cluster->stride) * cluster->stride;
        struct block *block = &cluster->blocks[number];

        if (cluster->clients_stop || !node->mirror || block->busy)
            continue;
        block->busy = true;
        cluster->clients_at_work++;
        co_client_read(node, buffer, number, 1);
        cluster->clients_at_work--;
        block->busy = false;
    }
    buffer_put(node->client_buffers, buffer, BLOCK_SIZE);
}

/* The blocks of the request are ours, and there is room for what it may leave. */
static bool take_repeat(struct cluster *cluster, const struct repeat *repeat)
{
    for (uint32_t i = 0; i < repeat->count; i++) {
        const struct block *block = &cluster->blocks[repeat->block + i];

        if (block->busy || block->maybe_count == MAYBE_MAX)
            return false;
    }
    for (uint32_t i = 0; i < repeat->count; i++)
        cluster->blocks[repeat->block + i].busy = true;
    return repeat->count > 0;
}

/* What happened before happens no more. Else it may have happened before what was written since,
 * unseen, or now. */
static void repeated(struct cluster *cluster, const struct repeat *repeat)
{
    for (uint32_t i = 0; i < repeat->count; i++) {
        struct block *block = &cluster->blocks[repeat->block + i];

        block->busy = false;
        if (repeat->happened[i])
            continue;
        block->writing = (struct value){0};
        block->changes++;
        if (block->seen == repeat->value.version) {
            block->known = repeat->value;
            block->maybe_count = 0;
        } else {
            block->maybe[block->maybe_count++] = repeat->value;
        }
    }
}

static void co_repeat(struct node *node, char *buffer, struct repeat *at)
{
    struct cluster *cluster = node->cluster;
    struct repeat repeat = *at;
    int r;

    if (!take_repeat(cluster, &repeat))
        return;
    *at = (struct repeat){0};
    repeat.request.is_repeat = true;
    for (uint32_t i = 0; i < repeat.count; i++) {
        struct block *block = &cluster->blocks[repeat.block + i];

        fill(buffer + (size_t)i * BLOCK_SIZE, repeat.block + i, repeat.value.version);
        if (repeat.happened[i])
            continue;
        block->writing = repeat.value;
        block->changes++;
    }
    r = co_vdisk_write(mirror_vdisk(node->mirror), buffer, repeat.block * BLOCK_SIZE,
                       (uint64_t)repeat.count * BLOCK_SIZE, repeat.request);
    check(cluster, r == 0 || r == -ESTALE || r == -ECANCELED);
    repeated(cluster, &repeat);
    cluster->count.repeats += r == 0;
    if (r != 0)
        remember_unanswered(cluster, &repeat);
}

static struct repeat *some_repeat(struct cluster *cluster)
{
    uint64_t from = draw(cluster, REPEATS_MAX);

    for (uint64_t i = 0; i < REPEATS_MAX; i++) {
        struct repeat *repeat = &cluster->repeats[(from + i) % REPEATS_MAX];

        if (cluster->count.takeovers - repeat->takeovers > REPEAT_TAKEOVERS_MAX)
            repeat->count = 0;
        if (repeat->count > 0)
            return repeat;
    }
    return NULL;
}

/* A client asks as soon as there is an owner: later, stores that started again may have forgotten
 * what has left their logs. */
void repeater_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    size_t bytes = cluster->request_blocks * BLOCK_SIZE;
    char *buffer = co_buffer_get(node->client_buffers, bytes);

    while (!node->stopping && co_sleep_ns(draw(cluster, 10 * MS)) == 0) {
        struct repeat *repeat = some_repeat(cluster);

        if (cluster->clients_stop || !node->mirror || !repeat)
            continue;
        cluster->clients_at_work++;
        co_repeat(node, buffer, repeat);
        cluster->clients_at_work--;
    }
    buffer_put(node->client_buffers, buffer, bytes);
}

/* A read beside a write shows what was there, or what is being written; and if that, then for
 * good, even if the writer never gets an answer. */
static void peeked(struct cluster *cluster, uint64_t number, const char *buffer,
                   const struct block *before)
{
    struct block *block = &cluster->blocks[number];
    bool right = shows(buffer, number, before->known) || shows(buffer, number, before->writing);

    for (unsigned i = 0; !right && i < before->maybe_count; i++)
        right = shows(buffer, number, before->maybe[i]);
    if (block->writing.version != 0 && !block->writing.zero &&
        shows(buffer, number, block->writing)) {
        block->seen = block->writing.version;
        right = true;
    }
    /* A whole request may have come and gone meanwhile. */
    check(cluster, right || block->changes > before->changes);
}

void peeker_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    char *buffer = co_buffer_get(node->client_buffers, BLOCK_SIZE);

    while (!node->stopping && co_sleep_ns(draw(cluster, 2 * MS)) == 0) {
        uint64_t number = draw_block(cluster);
        struct block before;

        for (int i = 0; i < 64 && cluster->blocks[number].writing.version == 0; i++)
            number = draw_block(cluster);
        if (cluster->data_columns > 1 && draw(cluster, 2) == 0) /* beside it in its row */
            number = block_at(cluster, number, (uint32_t)draw(cluster, cluster->data_columns));
        if (cluster->clients_stop || !node->mirror)
            continue;
        before = cluster->blocks[number];
        cluster->clients_at_work++;
        if (co_vdisk_read(mirror_vdisk(node->mirror), buffer, number * BLOCK_SIZE, BLOCK_SIZE) == 0)
            peeked(cluster, number, buffer, &before);
        cluster->clients_at_work--;
    }
    buffer_put(node->client_buffers, buffer, BLOCK_SIZE);
}

/* ---- from below ---- */

/* The extent of the node's column of the block, if that column counts now. */
static bool counted_column(const struct node *node, uint64_t number, struct extent_ref *ret_where)
{
    const struct vdisk_config *config = config_now(node->cluster);
    const struct column_config *columns = vdisk_config_slab(config, number / COLUMN_BLOCKS);

    for (uint32_t i = 0; i < config->width; i++) {
        if (columns[i].node != node->number || columns[i].state != COLUMN_IN_SYNC)
            continue;
        *ret_where = columns[i].where;
        return true;
    }
    return false;
}

/* What a store holds of a block is what was acknowledged or seen, or is under way. */
static bool inspected(struct cluster *cluster, uint64_t number, const char *buffer)
{
    const struct block *block = &cluster->blocks[number];
    bool right = shows(buffer, number, block->known) || shows(buffer, number, block->writing);

    for (unsigned i = 0; !right && i < block->maybe_count; i++)
        right = shows(buffer, number, block->maybe[i]);
    return right;
}

/* I1 of a mirror, asked of one store: every column that counts holds every acknowledged write, at
 * any time. A look tells something if nothing moved meanwhile. */
void inspector_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;
    char *buffer = co_buffer_get(node->client_buffers, BLOCK_SIZE);

    while (!node->stopping && co_sleep_ns(draw(cluster, MS)) == 0) {
        uint64_t number = draw(cluster, cluster->block_count),
                 changes = cluster->blocks[number].changes;
        uint64_t configs = cluster->config_count;
        struct extent_ref where;
        int r;

        if (!counted_column(node, number, &where))
            continue;
        r = co_store_read(node->store, VDISK, where, (uint32_t)(number % cluster->slab_blocks), 1,
                          number, buffer, NULL, NULL);
        if (changes != cluster->blocks[number].changes || configs != cluster->config_count)
            continue;
        check(cluster, r != -EBADMSG || cluster->blocks[number].rotten);
        check(cluster, r != 0 || inspected(cluster, number, buffer));
    }
    buffer_put(node->client_buffers, buffer, BLOCK_SIZE);
}

/* ---- the last look ---- */

/* One block of one column; false: it is rotten, and nobody has read it. */
static bool co_column_block(struct node *node, uint64_t number, uint32_t column, char *buffer,
                            uint64_t *ret_sum)
{
    struct cluster *cluster = node->cluster;
    const struct vdisk_config *config = config_now(cluster);
    uint32_t slab = (uint32_t)(number / cluster->slab_blocks);
    const struct column_config *at = &vdisk_config_slab(config, slab)[column];
    struct column_store *store = node_column(node, at->node, at->disk);
    uint32_t row = parity_row(cluster->data_columns, (uint32_t)(number % cluster->slab_blocks));
    uint64_t address =
        cluster->data_columns == 1 ? number : parity_address(config, slab, column, row);
    int r = co_column_read(store, VDISK, at->where, row, 1, address, buffer, ret_sum, NULL);

    check(cluster, r == 0 || (r == -EBADMSG && cluster->blocks[number].rotten));
    return r == 0;
}

static void co_check_copies(struct node *node, uint64_t number, char *first, char *other)
{
    struct cluster *cluster = node->cluster;
    const struct vdisk_config *config = config_now(cluster);
    const struct column_config *columns = vdisk_config_slab(config, number / cluster->slab_blocks);
    uint64_t first_sum, sum;
    bool seen = false;

    for (uint32_t i = 0; i < config->width; i++) {
        if (columns[i].state != COLUMN_IN_SYNC)
            continue;
        if (!co_column_block(node, number, i, seen ? other : first, seen ? &sum : &first_sum))
            continue;
        if (seen)
            check(cluster, sum == first_sum && memcmp(first, other, BLOCK_SIZE) == 0);
        seen = true;
    }
}

/* The parity of the block's row encodes its data. */
static void co_check_row(struct node *node, uint64_t number)
{
    cleanup(erasure_freep) struct erasure *erasure = NULL;
    struct cluster *cluster = node->cluster;
    const struct vdisk_config *config = config_now(cluster);
    const struct column_config *columns = vdisk_config_slab(config, number / cluster->slab_blocks);
    size_t bytes = (size_t)(config->width + PARITY_COLUMNS) * BLOCK_SIZE;
    char *memory = co_buffer_get(node->client_buffers, bytes);
    void *blocks[VDISK_COLUMNS_MAX];
    uint64_t sum;
    bool whole = true;

    for (uint32_t i = 0; i < config->width + PARITY_COLUMNS; i++)
        blocks[i] = memory + (size_t)i * BLOCK_SIZE;
    for (uint32_t i = 0; i < config->width; i++)
        whole = whole && columns[i].state == COLUMN_IN_SYNC &&
                co_column_block(node, number, i, blocks[i], &sum);
    check(cluster, erasure_new(config->data_columns, PARITY_COLUMNS, &erasure) == 0);
    erasure_encode(erasure, BLOCK_SIZE, (const void *const *)blocks, &blocks[config->width]);
    check(cluster, !whole || memcmp(blocks[config->data_columns], blocks[config->width],
                                    PARITY_COLUMNS * BLOCK_SIZE) == 0);
    buffer_put(node->client_buffers, memory, bytes);
}

void checker_run(struct node *node)
{
    struct cluster *cluster = node->cluster;
    char *first = co_buffer_get(node->client_buffers, BLOCK_SIZE);
    char *other = co_buffer_get(node->client_buffers, BLOCK_SIZE);

    for (uint64_t number = 0; number < cluster->block_count; number++) {
        int r = co_vdisk_read(mirror_vdisk(node->mirror), first, number * BLOCK_SIZE, BLOCK_SIZE);

        if (r == -EIO)
            check_lost(cluster, number, 1);
        else
            check(cluster, r == 0);
        if (r == 0)
            saw(cluster, number, first);
        if (!vdisk_config_slab_allocated(config_now(cluster),
                                         (uint32_t)(number / cluster->slab_blocks)))
            continue;
        if (cluster->data_columns == 1)
            co_check_copies(node, number, first, other);
        else
            co_check_row(node, number);
    }
    buffer_put(node->client_buffers, first, BLOCK_SIZE);
    buffer_put(node->client_buffers, other, BLOCK_SIZE);
}

void filler_run(struct node *node)
{
    struct cluster *cluster = node->cluster;
    size_t bytes = cluster->request_blocks * BLOCK_SIZE;
    char *buffer = co_buffer_get(node->client_buffers, bytes);

    for (uint64_t block = 0; block < cluster->block_count; block += cluster->request_blocks)
        co_client_write(node, buffer, block,
                        (uint32_t)MIN(cluster->request_blocks, cluster->block_count - block),
                        false);
    buffer_put(node->client_buffers, buffer, bytes);
}

static void scrub_says(void *node, const char *line)
{
    struct node *owner = node;

    log_debug(owner->io, "scrub", line, "seed=%llu", (unsigned long long)owner->cluster->seed);
}

void scrub_run(struct node *node)
{
    check(node->cluster,
          co_mirror_scrub(node->mirror, scrub_says, node, &node->cluster->scrub) == 0);
}

/* Moves the ownership away in an orderly fashion. */
static void co_hand_over(struct node *node)
{
    node->hand_over = false;
    if (!node->mirror || co_mirror_hand_over(node->mirror, io_now_ns(node->io) + SEC) < 0)
        return;
    node_end_mirror(node); /* and with it the right to answer */
    node->cluster->count.handed_over++;
}

void watcher_run(void *arg)
{
    struct node *node = arg;
    struct cluster *cluster = node->cluster;

    while (!node->stopping && co_sleep_ns(10 * MS) == 0) {
        if (node->hand_over)
            co_hand_over(node);
        if (node->destage_wanted) {
            check(cluster, co_store_checkpoint(node->store) == 0);
            node->destage_wanted = false;
        }
        if (!cluster->task || !node->mirror)
            continue;
        take_ptr(cluster->task)(node);
        cluster->task_done = true;
    }
}
