/* How a node becomes a member: it makes a cluster, or joins one with a token; and whom it talks to.
 *
 * A token is "ID.SECRET": the number of a record in the database and 32 random bytes. The joining
 * node authenticates its connection with the secret (find_key), and is sent the cluster's key over
 * it, sealed with the secret (AES-256-GCM): who listens learns nothing. */
#include <openssl/evp.h>
#include <stdio.h>

#include "s2d/node/node_internal.h"

#define TYPE_JOIN (BUS_TYPE_NODE + 0)
#define TOKEN_NS (3600 * SEC)
#define JOIN_NS (15 * SEC)
#define JOIN_REPLY_MAX (16 * 1024)

/* ---- hexadecimal ---- */

int hex_to_bytes(const char *hex, uint8_t *ret_bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";

    if (strlen(hex) != 2 * count)
        return -EINVAL;
    for (size_t i = 0; i < 2 * count; i++) {
        const char *digit = hex[i] ? strchr(digits, hex[i]) : NULL;

        if (!digit)
            return -EINVAL;
        ret_bytes[i / 2] =
            (uint8_t)(i % 2 ? ret_bytes[i / 2] | (digit - digits) : (digit - digits) << 4);
    }
    return 0;
}

void bytes_to_hex(const uint8_t *bytes, size_t count, char *ret_hex)
{
    for (size_t i = 0; i < count; i++)
        sprintf(ret_hex + 2 * i, "%02x", bytes[i]);
    ret_hex[2 * count] = '\0';
}

static void random_bytes(struct io *io, uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (uint8_t)io_random(io);
}

/* ---- sealing the cluster's key for a joining node ---- */

#define NONCE_BYTES 12
#define TAG_BYTES 16
#define SEALED_BYTES (NONCE_BYTES + KEY_BYTES + TAG_BYTES)

static int seal_key(const uint8_t secret[KEY_BYTES], const uint8_t key[KEY_BYTES],
                    uint8_t ret_sealed[SEALED_BYTES])
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int bytes, ok;

    ok = context && EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), NULL, secret, ret_sealed) == 1 &&
         EVP_EncryptUpdate(context, ret_sealed + NONCE_BYTES, &bytes, key, KEY_BYTES) == 1 &&
         EVP_EncryptFinal_ex(context, ret_sealed + NONCE_BYTES + bytes, &bytes) == 1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, TAG_BYTES,
                             ret_sealed + NONCE_BYTES + KEY_BYTES) == 1;
    EVP_CIPHER_CTX_free(context);
    return ok ? 0 : -EIO;
}

static int unseal_key(const uint8_t secret[KEY_BYTES], uint8_t sealed[SEALED_BYTES],
                      uint8_t ret_key[KEY_BYTES])
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    int bytes, ok;

    ok = context && EVP_DecryptInit_ex(context, EVP_aes_256_gcm(), NULL, secret, sealed) == 1 &&
         EVP_DecryptUpdate(context, ret_key, &bytes, sealed + NONCE_BYTES, KEY_BYTES) == 1 &&
         EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, TAG_BYTES,
                             sealed + NONCE_BYTES + KEY_BYTES) == 1 &&
         EVP_DecryptFinal_ex(context, ret_key + bytes, &bytes) == 1;
    EVP_CIPHER_CTX_free(context);
    return ok ? 0 : -EACCES;
}

/* ---- peers ---- */

static int add_peer(struct node *node, uint64_t id, const char *address)
{
    size_t slot = BUS_NODES_MAX;

    for (size_t i = 0; i < BUS_NODES_MAX && node->peers[i] != id; i++)
        slot = node->peers[i] == 0 ? i : slot;
    if (slot < BUS_NODES_MAX)
        node->peers[slot] = id;
    return bus_add_peer(node->bus, id, address);
}

/* Who was evicted still has the key: nobody talks to it any more. Only a database that is as new as
 * the lease says can tell; one that is still being replayed does not know its leader yet. */
static void remove_evicted(struct node *node)
{
    for (size_t i = 0; i < BUS_NODES_MAX; i++) {
        uint64_t id = node->peers[i];

        if (id == 0 || node_record_of(node, id))
            continue;
        node->peers[i] = 0;
        bus_remove_peer(node->bus, id);
    }
}

void node_reconcile_peers(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct node_record *record;
    const json_t *peer;
    size_t i;

    for (i = 0; (record = database_at(database, TABLE_NODE, i)); i++) {
        if (record->base.id != node->identity.node &&
            add_peer(node, record->base.id, record->address) < 0)
            log_error(node->io, "membership", "a node's address is of no use", "node=%s address=%s",
                      record->name, record->address);
    }
    if (i > 0) {
        if (node_lease_held(node))
            remove_evicted(node);
        return;
    }
    json_array_foreach(node->identity.peers, i, peer)
    {
        const char *address = json_string_value(json_object_get(peer, "address"));
        uint64_t id = (uint64_t)json_integer_value(json_object_get(peer, "id"));
        int r = address ? add_peer(node, id, address) : -EINVAL;

        if (r < 0)
            log_warn(node->io, "membership", "a peer of the join is of no use", "error=%s",
                     strerror(-r));
    }
}

/* ---- creating ---- */

static void uuid_text(const uint8_t uuid[16], char ret_text[37])
{
    char hex[33];

    bytes_to_hex(uuid, 16, hex);
    snprintf(ret_text, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

struct bootstrap_job {
    struct node *node;
    int result;
};

static void bootstrap(void *arg)
{
    struct bootstrap_job *job = arg;

    job->result = consensus_bootstrap(job->node->options.kv, 1);
}

/* Makes this node the first one of a cluster that has no record yet. */
static int co_become_first(struct node *node)
{
    struct bootstrap_job job = {.node = node};
    int r;

    random_bytes(node->io, node->identity.cluster, sizeof(node->identity.cluster));
    random_bytes(node->io, node->identity.key, KEY_BYTES);
    node->identity.node = 1;
    co_offload(node->io, bootstrap, &job);
    r = job.result;
    if (r == 0)
        r = co_node_save_identity(node);
    return r < 0 ? r : co_node_start_member(node);
}

static int co_propose_cluster(struct node *node, const char *name, struct node_message *ret_message)
{
    struct command_result result;
    char uuid[37];
    int r;

    uuid_text(node->identity.cluster, uuid);
    r = co_node_propose(node,
                        json_pack("{s:s,s:I,s:s,s:s,s:s,s:s,s:I}", "verb", "cluster.create",
                                  "vm_restart_delay_ms",
                                  (json_int_t)node->options.vm_restart_delay_ms, "name", name,
                                  "uuid", uuid, "node_name", node->name, "address", node->listen,
                                  "start_counter", (json_int_t)node->identity.start_counter),
                        &result);
    node_explain(&result, ret_message);
    command_result_done(&result);
    return r;
}

/* True when create and join have nothing to do here. Then it is said. An attempt that was
 * interrupted left a first node without a cluster: it may be created now. */
static bool is_taken(struct node *node, bool create, struct node_message *ret_message)
{
    bool unfinished = node->member && node->identity.node == 1 && !node->identity.peers &&
                      !database_cluster(node_database(node));

    if (node->becoming)
        node_say(ret_message, "this node is being made a member already");
    else if (node->member && !(create && unfinished))
        node_say(ret_message, "this node belongs to a cluster already");
    else if (!node->member && node->identity.node != 0)
        node_say(ret_message, "this node could not start as a member: its log says why");
    else
        return false;
    return true;
}

int co_node_create_cluster(struct node *node, const char *name, struct node_message *ret_message)
{
    int r = 0;

    if (is_taken(node, true, ret_message))
        return -EEXIST;
    if (!name_is_valid(name)) {
        node_say(ret_message,
                 "'%s' cannot name a cluster: use 1 to 63 letters, digits, '.', '_' or "
                 "'-', and begin with a letter, a digit or '_'",
                 name);
        return -EINVAL;
    }
    node->becoming = true;
    if (!node->member)
        r = co_become_first(node);
    if (r < 0) {
        node_say(ret_message, "the cluster cannot be created: %s", strerror(-r));
        node_fatal(node, "creating the cluster failed half-way");
        return r;
    }
    r = co_propose_cluster(node, name, ret_message);
    node->becoming = false;
    return r;
}

/* ---- tokens ---- */

int co_node_make_token(struct node *node, char ret_token[TOKEN_TEXT_MAX],
                       struct node_message *ret_message)
{
    struct command_result result;
    uint8_t secret[KEY_BYTES];
    char hex[2 * KEY_BYTES + 1];
    int r;

    random_bytes(node->io, secret, sizeof(secret));
    bytes_to_hex(secret, sizeof(secret), hex);
    r = co_node_propose(node,
                        json_pack("{s:s,s:s,s:I}", "verb", "token.create", "secret", hex,
                                  "expires_ns", (json_int_t)(io_wall_ns(node->io) + TOKEN_NS)),
                        &result);
    if (r == 0)
        snprintf(ret_token, TOKEN_TEXT_MAX, "%lld.%s",
                 (long long)json_integer_value(json_object_get(result.reply, "token")), hex);
    node_explain(&result, ret_message);
    command_result_done(&result);
    return r;
}

/* Returns 0, -EINVAL. */
static int parse_token(const char *token, uint64_t *ret_id, uint8_t ret_secret[KEY_BYTES])
{
    char *end;

    *ret_id = strtoull(token, &end, 10);
    if (token[0] < '0' || token[0] > '9' || *end != '.')
        return -EINVAL;
    return hex_to_bytes(end + 1, ret_secret, KEY_BYTES);
}

static void token_key_id(uint64_t id, uint8_t ret_key_id[BUS_KEY_ID_BYTES])
{
    memset(ret_key_id, 0, BUS_KEY_ID_BYTES);
    memcpy(ret_key_id, "token", 5);
    for (int i = 0; i < 8; i++)
        ret_key_id[8 + i] = (uint8_t)(id >> 8 * i);
}

static uint64_t token_of_key_id(const uint8_t key_id[BUS_KEY_ID_BYTES])
{
    uint64_t id = 0;

    for (int i = 0; i < 8; i++)
        id |= (uint64_t)key_id[8 + i] << 8 * i;
    return memcmp(key_id, "token", 5) == 0 ? id : 0;
}

int node_find_key(void *arg, const uint8_t key_id[BUS_KEY_ID_BYTES], uint8_t ret_key[BUS_KEY_BYTES])
{
    struct node *node = arg;
    const struct token_record *token;

    if (!node->consensus)
        return -ENOENT;
    token =
        database_find(consensus_database(node->consensus), TABLE_TOKEN, token_of_key_id(key_id));
    if (!token || token->expires_ns < io_wall_ns(node->io))
        return -ENOENT;
    return hex_to_bytes(token->secret, ret_key, BUS_KEY_BYTES);
}

/* ---- joining: the member's side ---- */

struct join_task {
    struct node *node;
    struct bus_message *message;
};

static json_t *list_peers(const struct node *node)
{
    const struct node_record *record;
    json_t *list = json_array();

    for (size_t i = 0; (record = database_at(consensus_database(node->consensus), TABLE_NODE, i));
         i++)
        json_array_append_new(list, json_pack("{s:I,s:s}", "id", (json_int_t)record->base.id,
                                              "address", record->address));
    return list;
}

/* What the new node needs to know: {node, uuid, key (sealed), peers}, or {message}. */
static json_t *co_admit(struct node *node, uint64_t token, const uint8_t secret[KEY_BYTES],
                        const json_t *request, int *ret_result)
{
    uint8_t sealed[SEALED_BYTES];
    char hex[2 * SEALED_BYTES + 1], cluster[33];
    struct command_result result;
    json_t *reply;

    *ret_result =
        co_node_propose(node,
                        json_pack("{s:s,s:I,s:O*,s:O*,s:O*}", "verb", "node.join", "token",
                                  (json_int_t)token, "name", json_object_get(request, "name"),
                                  "address", json_object_get(request, "address"), "start_counter",
                                  json_object_get(request, "start_counter")),
                        &result);
    if (*ret_result < 0) {
        reply = json_pack("{s:s}", "message", result.message);
        command_result_done(&result);
        return reply;
    }
    random_bytes(node->io, sealed, NONCE_BYTES);
    *ret_result = seal_key(secret, node->identity.key, sealed);
    bytes_to_hex(sealed, sizeof(sealed), hex);
    bytes_to_hex(node->identity.cluster, sizeof(node->identity.cluster), cluster);
    reply = json_pack("{s:O,s:s,s:s,s:o}", "node", json_object_get(result.reply, "node"), "cluster",
                      cluster, "key", hex, "peers", list_peers(node));
    command_result_done(&result);
    return reply;
}

static void join_main(void *arg)
{
    struct join_task *task = arg;
    struct node *node = task->node;
    json_t *request = json_parse(task->message->data, task->message->data_bytes);
    struct bus_send send = {.channel = BUS_CONTROL, .flags = BUS_CHECKSUM};
    uint64_t token = task->message->key_id ? token_of_key_id(task->message->key_id) : 0;
    uint8_t secret[KEY_BYTES];
    json_t *reply = NULL;
    char *text = NULL;
    int result = -EACCES;

    if (request && task->message->key_id && node_find_key(node, task->message->key_id, secret) == 0)
        reply = co_admit(node, token, secret, request, &result);
    if (reply)
        text = json_dumps(reply, JSON_COMPACT);
    send.data = text;
    send.data_bytes = text ? strlen(text) : 0;
    result = bus_reply(node->bus, task->message, result, &send);
    (void)result; /* gone: it will ask again */
    free(text);
    json_decref(reply);
    json_decref(request);
    bus_message_release(task->message);
    free(task);
    node_reconcile_soon(node);
}

static void handle_join(void *arg, const struct bus_message *message)
{
    struct node *node = arg;
    struct join_task *task = malloc(sizeof(*task));

    if (!task || node->stopping || message->request == 0) {
        free(task); /* who asks waits for an answer */
        return;
    }
    *task = (struct join_task){.node = node, .message = bus_message_keep(message)};
    if (!node_spawn(node, "join", join_main, task)) {
        bus_message_release(task->message);
        free(task);
    }
}

void node_membership_start(struct node *node)
{
    bus_allow_guest(node->bus, TYPE_JOIN);
    bus_handle(node->bus, TYPE_JOIN, handle_join, node);
}

/* ---- joining: the new node's side ---- */

static int co_ask(struct node *node, const char *address, uint64_t token,
                  const uint8_t secret[KEY_BYTES], json_t **ret_reply)
{
    struct bus_options options = {
        .start_counter = node->identity.start_counter, .key = secret, .key_bytes = KEY_BYTES};
    json_t *request = json_pack("{s:s,s:s,s:I}", "name", node->name, "address", node->listen,
                                "start_counter", (json_int_t)node->identity.start_counter);
    char *text = json_dumps(request, JSON_COMPACT);
    struct bus_send send = {.type = TYPE_JOIN, .flags = BUS_CHECKSUM, .data = text};
    struct bus_reply reply = {.data_bytes = JOIN_REPLY_MAX};
    int r = -ENOMEM;

    token_key_id(token, options.key_id);
    reply.data = aligned_alloc(BLOCK_SIZE, JOIN_REPLY_MAX);
    if (text && reply.data) {
        send.data_bytes = strlen(text);
        r = co_bus_call_address(node->io, &options, address, &send, JOIN_NS, &reply);
    }
    if (r == 0) {
        *ret_reply = json_parse(reply.data, reply.data_bytes);
        r = reply.result;
    }
    free(reply.data);
    free(text);
    json_decref(request);
    return r;
}

static int take_identity(struct node *node, const json_t *reply, const uint8_t secret[KEY_BYTES])
{
    const char *cluster = json_string_value(json_object_get(reply, "cluster"));
    const char *key = json_string_value(json_object_get(reply, "key"));
    const json_t *peers = json_object_get(reply, "peers");
    uint8_t sealed[SEALED_BYTES];
    uint64_t number;
    int r;

    if (!cluster || !key || !json_is_array(peers) ||
        !node_take_number(json_object_get(reply, "node"), &number) || number == 0)
        return -EPROTO;
    r = hex_to_bytes(cluster, node->identity.cluster, sizeof(node->identity.cluster));
    if (r == 0)
        r = hex_to_bytes(key, sealed, sizeof(sealed));
    if (r == 0)
        r = unseal_key(secret, sealed, node->identity.key);
    if (r < 0)
        return -EPROTO;
    node->identity.node = number;
    json_decref(node->identity.peers);
    node->identity.peers = json_deep_copy(peers);
    return 0;
}

static void explain_join(int r, const char *address, const json_t *reply,
                         struct node_message *message)
{
    const char *said = json_string_value(json_object_get(reply, "message"));

    if (said && said[0])
        node_say(message, "%s", said);
    else if (r == -EACCES)
        node_say(message,
                 "the token is not valid (any more): make another with 's2d cluster token'");
    else if (r == -ECONNREFUSED)
        node_say(message, "no daemon of a cluster listens on %s", address);
    else if (r == -EPROTONOSUPPORT)
        node_say(message, "the cluster at %s speaks another version of the protocol", address);
    else
        node_say(message, "the cluster at %s does not answer: %s", address, strerror(-r));
}

/* Until the database has come, and says that this node is a member. */
static int co_wait_member(struct node *node, struct node_message *message)
{
    uint64_t deadline_ns = io_now_ns(node->io) + JOIN_NS;

    while (!node_record_of(node, node->identity.node)) {
        int r = co_cond_wait_until(&node->changed, deadline_ns);

        if (r < 0) {
            node_say(message, "joined, but the cluster database does not come: look at the log");
            return r;
        }
    }
    return 0;
}

struct erase_job {
    struct node *node;
    int result;
};

static void erase(void *arg)
{
    struct erase_job *job = arg;
    struct kv_batch batch;

    kv_batch_init(&batch);
    consensus_erase(&batch);
    job->result = kv_write(job->node->options.kv, &batch);
    kv_batch_done(&batch);
}

/* What an interrupted attempt to create a cluster left in the store would lead this node. */
static int co_become_member(struct node *node)
{
    struct erase_job job = {.node = node};
    int r;

    co_offload(node->io, erase, &job);
    r = job.result;
    if (r == 0)
        r = co_node_save_identity(node);
    return r < 0 ? r : co_node_start_member(node);
}

static int co_join(struct node *node, const char *address, const char *token,
                   struct node_message *ret_message)
{
    uint8_t secret[KEY_BYTES];
    json_t *reply = NULL;
    uint64_t id;
    int r;

    if (parse_token(token, &id, secret) < 0) {
        node_say(ret_message, "that is not a token: 's2d cluster token' on a member makes one");
        return -EINVAL;
    }
    r = co_ask(node, address, id, secret, &reply);
    if (r == 0)
        r = take_identity(node, reply, secret);
    if (r < 0)
        explain_join(r, address, reply, ret_message);
    json_decref(reply);
    if (r < 0)
        return r;
    r = co_become_member(node);
    if (r < 0) {
        node_say(ret_message, "the node cannot start as a member: %s", strerror(-r));
        node_fatal(node, "joining failed half-way");
        return r;
    }
    return co_wait_member(node, ret_message);
}

int co_node_join(struct node *node, const char *address, const char *token,
                 struct node_message *ret_message)
{
    int r;

    if (is_taken(node, false, ret_message))
        return -EEXIST;
    node->becoming = true;
    r = co_join(node, address, token, ret_message);
    node->becoming = false;
    return r;
}
