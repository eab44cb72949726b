/* s2dd: the daemon of one node. The node itself is node.c; here is what makes it a process:
 * options, the lock on its folder, signals, and the faces to the world: API, NBD, FUSE, VMs. They
 * open when the node has become a member, in the order below, and close in the reverse one. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "csv-export/csv.h"
#include "csv-export/fuse_mount.h"
#include "csv-export/nbd_files.h"
#include "csv-export/nbd_server.h"
#include "resiliency/erasure.h"
#include "s2d/api/server.h"
#include "s2d/base/co.h"
#include "s2d/base/log.h"
#include "s2d/cluster/kv.h"
#include "s2d/node/api_routes.h"
#include "s2d/node/node.h"
#include "s2d/node/options.h"
#include "s2d/node/vms.h"

#define LOCK_WAIT_S 10
#define NICE (-10)
#define LOOK_NS SEC
#define MOUNT_WAIT_NS (3 * SEC)
#define MOUNTS_MAX 64
#define NBD_CONNECTIONS_MAX 1024 /* one for each disk of the VMs here; the rest for others */

struct mount { /* one volume's FUSE mount */
    struct list node;
    uint64_t volume; /* its id: another volume may take its name */
    struct fuse_mount *mount;
};

struct daemon {
    struct daemon_options options;
    struct io *io;
    struct kv *kv;
    struct node *node;
    struct api_context api;
    struct api_server *api_server;
    struct nbd_files *nbd_files;
    struct nbd_server *nbd_server;
    struct vms *vms;
    struct list mounts;
    struct io_poll *signals;
    int signal_fd;
    struct co *services;
    bool stopping;
    struct io_timer patience;
    bool services_ended;
    struct co_cond changed, mounted;
    int exit_status;
};

static void path_of(const struct daemon *daemon, const char *name, char ret_path[600])
{
    snprintf(ret_path, 600, "%s/%s", daemon->options.dir, name);
}

/* ---- what the node tells ---- */

static void on_fatal(void *arg, const char *reason)
{
    struct daemon *daemon = arg;

    (void)reason; /* it is in the log */
    daemon->exit_status = EXIT_FAILURE;
    daemon->stopping = true;
    io_poll_shutdown(daemon->signals); /* wakes daemon_main() */
}

static void on_change(void *arg, const struct database_change *changes, size_t count)
{
    struct daemon *daemon = arg;

    (void)changes;
    (void)count;
    if (daemon->vms)
        vms_changed(daemon->vms);
    co_cond_signal(&daemon->changed);
}

static void on_lease(void *arg, uint64_t expires_ns)
{
    struct daemon *daemon = arg;

    if (daemon->vms)
        vms_lease(daemon->vms, expires_ns);
}

/* ---- faces that come with membership ---- */

static int co_open_nbd(struct daemon *daemon)
{
    struct nbd_server_options options = {.connections_max = NBD_CONNECTIONS_MAX,
                                         .metrics = node_metrics(daemon->node)};
    char path[600], address[620];
    int r;

    path_of(daemon, "nbd.sock", path);
    snprintf(address, sizeof(address), "unix:%s", path);
    options.address = address;
    r = nbd_files_new(node_csv(daemon->node), &daemon->nbd_files);
    if (r < 0)
        return r;
    return co_nbd_server_open(daemon->io, nbd_files_backend(daemon->nbd_files), &options,
                              &daemon->nbd_server);
}

static enum hv_accel accel_of(const struct daemon_options *options)
{
    if (strcmp(options->accel, "kvm") == 0)
        return HV_ACCEL_KVM;
    return strcmp(options->accel, "tcg") == 0 ? HV_ACCEL_TCG : HV_ACCEL_AUTO;
}

static int open_vms(struct daemon *daemon)
{
    char socket[600];
    struct vms_options options = {
        .folder = daemon->options.dir, .nbd_socket = socket, .accel = accel_of(&daemon->options)};
    int r;

    path_of(daemon, "nbd.sock", socket);
    r = vms_new(daemon->node, &options, &daemon->vms);
    if (r == 0)
        daemon->api.hv = vms_hv;
    daemon->api.vms = daemon->vms;
    return r;
}

static struct mount *find_mount(struct daemon *daemon, uint64_t volume)
{
    list_for_each (entry, &daemon->mounts) {
        struct mount *mount = list_entry(entry, struct mount, node);

        if (mount->volume == volume)
            return mount;
    }
    return NULL;
}

struct mountable { /* what a volume's record says */
    uint64_t volume;
    char name[NAME_MAX_BYTES];
};

static void co_mount_volume(struct daemon *daemon, const struct mountable *mountable)
{
    struct csv_volume *volume = csv_volume_find(node_csv(daemon->node), mountable->name);
    struct mount *mount = calloc(1, sizeof(*mount));
    char path[700];
    struct fuse_mount_options options = {.path = path};
    bool is_there = volume && csv_volume_id(volume) == mountable->volume; /* else soon */
    int r = -ENOMEM;

    if (mount && is_there) {
        mount->volume = mountable->volume;
        snprintf(path, sizeof(path), "%s/clusterstorage/%s", daemon->options.dir, mountable->name);
        r = co_fuse_mount_open(daemon->io, volume, &options, &mount->mount);
    }
    if (r == 0) {
        list_push_back(&daemon->mounts, &mount->node);
        co_cond_broadcast(&daemon->mounted);
    } else {
        if (is_there)
            log_error(daemon->io, "daemon", "a volume cannot be mounted", "volume=%s error=%s",
                      mountable->name, strerror(-r));
        free(mount);
    }
    csv_volume_put(volume);
}

static void co_unmount(struct mount *mount)
{
    list_remove(&mount->node);
    co_fuse_mount_close(mount->mount);
    free(mount);
}

/* Mounts what has come, unmounts what has gone. */
static void co_follow_volumes(struct daemon *daemon)
{
    const struct database *database = node_database(daemon->node);
    const struct volume_record *record;
    struct mountable mountables[MOUNTS_MAX];
    size_t count = 0;

    if (strcmp(daemon->options.fuse, "yes") != 0)
        return;
    for (size_t i = 0; (record = database_at(database, TABLE_VOLUME, i)) && count < MOUNTS_MAX;
         i++) {
        if (record->state != VOLUME_ONLINE)
            continue;
        mountables[count].volume = record->base.id;
        memcpy(mountables[count++].name, record->name, NAME_MAX_BYTES);
    }
    list_for_each_safe (entry, &daemon->mounts) {
        struct mount *mount = list_entry(entry, struct mount, node);
        size_t i = 0;

        while (i < count && mountables[i].volume != mount->volume)
            i++;
        if (i == count)
            co_unmount(mount);
    }
    for (size_t i = 0; i < count && !daemon->stopping; i++) {
        if (!find_mount(daemon, mountables[i].volume))
            co_mount_volume(daemon, &mountables[i]);
    }
}

/* Whoever made a volume looks for it at once. */
static void co_await_mount(void *arg, uint64_t volume)
{
    struct daemon *daemon = arg;
    uint64_t deadline_ns = io_now_ns(daemon->io) + MOUNT_WAIT_NS;
    int r = 0;

    co_cond_signal(&daemon->changed); /* the volume may be served since services_main() looked */
    while (r == 0 && !daemon->stopping && !find_mount(daemon, volume))
        r = co_cond_wait_until(&daemon->mounted, deadline_ns);
}

static void services_main(void *arg)
{
    struct daemon *daemon = arg;

    while (!daemon->stopping) {
        if (node_is_member(daemon->node)) {
            if (!daemon->nbd_server) {
                int r = co_open_nbd(daemon);

                if (r == 0)
                    r = open_vms(daemon);
                api_routes_start(&daemon->api);
                if (r < 0) {
                    log_error(daemon->io, "daemon", "exports cannot be opened", "error=%s",
                              strerror(-r));
                    on_fatal(daemon, "exports cannot be opened");
                    break;
                }
            }
            co_follow_volumes(daemon);
        }
        if (daemon->stopping)
            break;
        if (co_cond_wait_until(&daemon->changed, io_now_ns(daemon->io) + LOOK_NS) == -ECANCELED)
            break;
    }
    daemon->services_ended = true;
    co_cond_broadcast(&daemon->changed);
}

/* ---- start and stop ---- */

static int co_open_api(struct daemon *daemon)
{
    struct api_server_options options = {.metrics = node_metrics(daemon->node)};
    char path[600];

    path_of(daemon, "api.sock", path);
    daemon->api.node = daemon->node;
    daemon->api.folder = daemon->options.dir;
    options.path = path;
    if (strcmp(daemon->options.fuse, "yes") == 0) {
        daemon->api.co_await_mount = co_await_mount;
        daemon->api.arg = daemon;
    }
    options.router = api_routes_router(&daemon->api);
    return api_server_open(daemon->io, &options, &daemon->api_server);
}

static int co_start(struct daemon *daemon)
{
    struct node_options options = {
        .name = daemon->options.name,
        .listen = daemon->options.listen,
        .folder = daemon->options.dir,
        .kv = daemon->kv,
        .cold_start_grace_ns = daemon->options.cold_start_grace_ms * MS,
        .rebuild_floor_bytes = daemon->options.rebuild_floor_mib * MIB,
        .vm_restart_delay_ms = daemon->options.vm_restart_delay_ms,
        .on_fatal = on_fatal,
        .on_change = on_change,
        .on_lease = on_lease,
        .arg = daemon,
    };
    int r;

    r = co_node_start(daemon->io, &options, &daemon->node);
    if (r < 0) {
        log_error(daemon->io, "daemon", "the node cannot start", "error=%s", strerror(-r));
        if (r == -EBADMSG)
            log_error(daemon->io, "daemon", "what its folder says of it and the cluster is damaged",
                      "action=\"evict this node, empty the folder and join again\"");
        return r;
    }
    r = co_open_api(daemon);
    if (r < 0) {
        log_error(daemon->io, "daemon", "the API cannot be opened", "error=%s", strerror(-r));
        return r;
    }
    r = co_spawn(daemon->io, "services", services_main, daemon);
    if (r < 0)
        daemon->services_ended = true;
    return r;
}

#define PATIENCE_NS (5 * SEC) /* with clients' requests at a stop, then */
#define AGAIN_NS SEC

/* A request that waits for a disk or node that is away may wait for days, here or at another node
 * that owns its volume; one of the API may wait behind it. Its client is cut off: guests first, who
 * are to see a pause and no error. */
static void lose_patience(void *arg)
{
    struct daemon *daemon = arg;

    log_warn(daemon->io, "daemon", "requests hold up the stop: their volumes are let go of",
             "after_seconds=%llu", (unsigned long long)(PATIENCE_NS / SEC));
    if (daemon->nbd_server)
        nbd_server_shutdown(daemon->nbd_server);
    node_drop_volumes(daemon->node);
    io_timer_arm(daemon->io, &daemon->patience, io_now_ns(daemon->io) + AGAIN_NS);
}

static void be_patient(struct daemon *daemon)
{
    if (daemon->node)
        io_timer_arm(daemon->io, &daemon->patience, io_now_ns(daemon->io) + PATIENCE_NS);
}

/* Clients first, then what serves them. VMs run on until their deadline: the next daemon takes them
 * up. What is waited for but clients' requests (a VM that is being started) costs no volume. */
static void co_stop(struct daemon *daemon)
{
    daemon->stopping = true;
    vms_leave(daemon->vms);
    io_timer_init(&daemon->patience, lose_patience, daemon);
    be_patient(daemon);
    co_cond_broadcast(&daemon->changed);
    while (!daemon->services_ended)
        co_cond_wait_always(&daemon->changed);
    vms_leave(daemon->vms); /* they may have come up only now */
    co_api_server_close(daemon->api_server);
    co_api_routes_stop(&daemon->api);
    io_timer_disarm(daemon->io, &daemon->patience);
    co_vms_free(daemon->vms); /* told of the lease until then: guests are not to wait for a start */
    daemon->vms = NULL;
    if (daemon->nbd_server)
        nbd_server_shutdown(daemon->nbd_server);
    if (daemon->node && node_csv(daemon->node))
        csv_stop(node_csv(daemon->node)); /* what still waits for an owner must not hold us up */
    be_patient(daemon);
    while (!list_empty(&daemon->mounts))
        co_unmount(list_first(&daemon->mounts, struct mount, node));
    co_nbd_server_close(daemon->nbd_server);
    nbd_files_free(daemon->nbd_files);
    io_timer_disarm(daemon->io, &daemon->patience);
    co_node_stop(daemon->node, daemon->exit_status == EXIT_SUCCESS);
}

static void daemon_main(void *arg)
{
    struct daemon *daemon = arg;
    struct signalfd_siginfo signal;
    int r;

    daemon->services_ended = true;
    r = io_poll_new(daemon->io, daemon->signal_fd, &daemon->signals);
    if (r == 0) {
        daemon->services_ended = false;
        r = co_start(daemon);
        if (r < 0)
            daemon->services_ended = true;
    }
    if (r < 0)
        daemon->exit_status = EXIT_FAILURE;
    else
        log_info(daemon->io, "daemon", "started", "name=%s listen=%s dir=%s", daemon->options.name,
                 daemon->options.listen, daemon->options.dir);
    while (r >= 0 && !daemon->stopping) {
        r = co_io_poll(daemon->signals, 1 /* POLLIN */);
        if (r > 0 && read(daemon->signal_fd, &signal, sizeof(signal)) == sizeof(signal)) {
            log_info(daemon->io, "daemon", "stopping", "signal=%u", signal.ssi_signo);
            break;
        }
    }
    co_stop(daemon);
    io_poll_free(daemon->signals);
    io_stop(daemon->io);
}

/* ---- the process ---- */

/* Two daemons on one folder would destroy it. A predecessor that is dying gets its time. */
static int take_lock(const struct daemon *daemon)
{
    char path[600];
    int fd;

    path_of(daemon, "lock", path);
    fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0) {
        fprintf(stderr, "s2dd: %s cannot be made: %s\n", path, strerror(errno));
        return -errno;
    }
    for (int i = 0; i < LOCK_WAIT_S * 10; i++) {
        struct timespec pause = {.tv_nsec = 100000000};

        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd; /* held until the process ends */
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "s2dd: another s2dd works in %s: stop it first\n", daemon->options.dir);
    close(fd);
    return -EBUSY;
}

static int make_folders(const struct daemon *daemon)
{
    static const struct {
        const char *name;
        mode_t mode;
    } folders[] = {
        {"", 0755}, {"db", 0700 /* it holds the cluster's key */}, {"clusterstorage", 0755}};
    char path[600];

    for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
        path_of(daemon, folders[i].name, path);
        if (mkdir(path, folders[i].mode) < 0 && errno != EEXIST) {
            fprintf(stderr, "s2dd: %s cannot be made: %s\n", path, strerror(errno));
            return -errno;
        }
    }
    return 0;
}

/* Mounts and VMs are named by absolute paths. */
static int make_absolute(struct daemon *daemon)
{
    char *path = realpath(daemon->options.dir, NULL);
    size_t length = path ? strlen(path) : 0;

    if (!path || length >= sizeof(daemon->options.dir)) {
        fprintf(stderr, "s2dd: the path of %s cannot be used: %s\n", daemon->options.dir,
                path ? "too long" : strerror(errno));
        free(path);
        return -EINVAL;
    }
    memcpy(daemon->options.dir, path, length + 1);
    free(path);
    return 0;
}

static int open_kv(struct daemon *daemon)
{
    char path[600], message[400];
    int r;

    path_of(daemon, "db", path);
    r = kv_rocksdb_open(path, message, sizeof(message), &daemon->kv);
    if (r == -EBADMSG)
        fprintf(
            stderr,
            "s2dd: the cluster database in %s is damaged (%s): evict this node, empty the folder "
            "and join again\n",
            path, message);
    else if (r < 0)
        fprintf(stderr, "s2dd: the cluster database in %s cannot be opened: %s\n", path, message);
    return r;
}

/* Reclaim in our own memory must not wait for our own mounts, and our memory must not be paged out
 * while VMs wait. */
static void settle_process(void)
{
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        fprintf(stderr, "s2dd: warning: PR_SET_IO_FLUSHER: %s\n", strerror(errno));
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        fprintf(stderr, "s2dd: warning: mlockall: %s\n", strerror(errno));
    if (setpriority(PRIO_PROCESS, 0, NICE) < 0)
        fprintf(stderr, "s2dd: warning: setpriority: %s\n", strerror(errno));
    signal(SIGPIPE, SIG_IGN);
}

/* Parity written by a library that computes nonsense on this CPU would be found when it is needed.
 */
static int trust_erasure_code(void)
{
    int r = erasure_self_test((uint64_t)time(NULL));

    if (r == -EBADMSG)
        fprintf(stderr, "s2dd: the erasure code library (libisal) fails its self-test on this CPU: "
                        "not starting\n");
    else if (r < 0)
        fprintf(stderr, "s2dd: the self-test of the erasure code: %s\n", strerror(-r));
    return r;
}

static int open_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread starts: all inherit it */
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static enum log_level level_of(const char *word)
{
    static const char *const words[] = {"debug", "info", "warn", "error", NULL};
    int level = schema_value(words, word);

    return level < 0 ? LOG_INFO : (enum log_level)level;
}

static int run(struct daemon *daemon)
{
    struct log_sink *sink;

    if (io_uring_new(NULL, &daemon->io) < 0) {
        fprintf(stderr,
                "s2dd: this kernel does not give io_uring with DEFER_TASKRUN (6.1 or later)\n");
        return EXIT_FAILURE;
    }
    if (log_file_sink_new(stderr, daemon->options.name, level_of(daemon->options.log_level),
                          &sink) < 0)
        return EXIT_FAILURE;
    io_set_log_sink(daemon->io, sink);
    list_init(&daemon->mounts);
    co_cond_init(&daemon->changed);
    co_cond_init(&daemon->mounted);
    if (co_spawn(daemon->io, "daemon", daemon_main, daemon) < 0)
        return EXIT_FAILURE;
    io_run(daemon->io);
    io_free(daemon->io);
    log_file_sink_free(sink);
    return daemon->exit_status;
}

int main(int argc, char **argv)
{
    static struct daemon daemon;
    int status;

    switch (options_parse(argc, argv, stdout, stderr, &daemon.options)) {
    case OPTIONS_DONE:
        return EXIT_SUCCESS;
    case OPTIONS_WRONG:
        return 2;
    case OPTIONS_RUN:
        break;
    }
    if (make_folders(&daemon) < 0 || make_absolute(&daemon) < 0 || take_lock(&daemon) < 0)
        return EXIT_FAILURE;
    if (trust_erasure_code() < 0)
        return EXIT_FAILURE;
    daemon.signal_fd = open_signals();
    settle_process();
    if (open_kv(&daemon) < 0)
        return EXIT_FAILURE;
    status = run(&daemon);
    kv_close(daemon.kv);
    return status;
}
