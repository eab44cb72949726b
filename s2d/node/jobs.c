/* Rebuilds as jobs: what people see of repair.c's work, and may pause.
 *
 * A volume of which columns are to move, or are being filled in their new places, has a job
 * "rebuild". What is left is a look at the database, so the job goes on under any leader and any
 * owner: whole columns, which are in-sync or not. To these the owner adds what its resyncs have
 * got through of the next ones, so that the figure moves; done_bytes never falls. The leader begins
 * and ends jobs, the owner of the volume tells their progress; a pass proposes at most one command
 * a job, and a command that gets lost is proposed again by a later pass. */
#include "resiliency/mirror.h"
#include "s2d/node/repair.h"
#include "s2d/node/volumes_internal.h"

#define TELL_NS (2 * SEC) /* between two figures of a job */

/* The one of the volume that has not ended; NULL: none. */
static const struct job_record *find_job(const struct database *database,
                                         const struct volume_record *volume)
{
    const struct job_record *job;

    for (size_t i = 0; (job = database_at(database, TABLE_JOB, i)); i++) {
        if (job_is_active(job) && strcmp(job->kind, REBUILD_JOB) == 0 &&
            strcmp(job->target, volume->name) == 0)
            return job;
    }
    return NULL;
}

bool node_job_is_paused(const struct node *node, const struct vdisk_record *vdisk)
{
    const struct database *database = consensus_database(node->consensus);
    const struct volume_record *volume = database_find(database, TABLE_VOLUME, vdisk->volume);
    const struct job_record *job = volume ? find_job(database, volume) : NULL;

    return job && job->state == JOB_PAUSED;
}

/* ---- the leader ---- */

static void begin_job(struct node *node, const struct vdisk_record *vdisk,
                      const struct volume_record *volume, uint64_t left_bytes)
{
    node_propose_as_leader(node, vdisk->base.id, 0,
                           json_pack("{s:s,s:s,s:s,s:I,s:I}", "verb", "job.create", "kind",
                                     REBUILD_JOB, "target", volume->name, "total_bytes",
                                     (json_int_t)left_bytes, "left_bytes", (json_int_t)left_bytes));
}

static void end_job(struct node *node, const struct job_record *job, enum job_state state,
                    const char *message)
{
    uint64_t done_bytes = state == JOB_DONE ? job->total_bytes : job->done_bytes;

    node_propose_as_leader(node, job->base.id, 0,
                           json_pack("{s:s,s:I,s:s,s:I,s:I,s:s}", "verb", "job.update", "job",
                                     (json_int_t)job->base.id, "state", job_state_words[state],
                                     "done_bytes", (json_int_t)done_bytes, "left_bytes",
                                     (json_int_t)0, "message", message));
}

/* Says so when nothing goes on, and when it does again. */
static void explain(struct node *node, const struct vdisk_record *vdisk,
                    const struct job_record *job)
{
    bool stuck = repair_is_stuck(consensus_database(node->consensus), vdisk);

    if (stuck == (job->message[0] != '\0'))
        return;
    node_propose_as_leader(
        node, job->base.id, 0,
        json_pack("{s:s,s:I,s:s}", "verb", "job.update", "job", (json_int_t)job->base.id, "message",
                  stuck ? "it waits for room on other nodes, or for nodes that are down" : ""));
}

/* A look at all slabs of a large cluster takes a while: only when there may be something. */
static bool disks_leave(const struct database *database)
{
    const struct disk_record *disk;

    for (size_t i = 0; (disk = database_at(database, TABLE_DISK, i)); i++) {
        if (repair_wanted(database, disk))
            return true;
    }
    return false;
}

static void lead_vdisk(struct node *node, const struct vdisk_record *vdisk, bool wanted)
{
    const struct database *database = consensus_database(node->consensus);
    const struct volume_record *volume = database_find(database, TABLE_VOLUME, vdisk->volume);
    const struct job_record *job = volume ? find_job(database, volume) : NULL;
    uint64_t left_bytes = wanted || job ? repair_left_bytes(database, vdisk->base.id) : 0;

    if (job && job->state == JOB_RUNNING && left_bytes > 0)
        explain(node, vdisk, job);
    if (volume && left_bytes > 0 && !job && volume->state != VOLUME_DELETING)
        begin_job(node, vdisk, volume, left_bytes);
    else if (job && left_bytes == 0)
        end_job(node, job, JOB_DONE, "");
}

void node_jobs_lead_pass(struct node *node)
{
    const struct database *database = consensus_database(node->consensus);
    const struct vdisk_record *vdisk;
    const struct job_record *job;
    bool wanted = disks_leave(database);

    for (size_t i = 0; (vdisk = database_at(database, TABLE_VDISK, i)); i++)
        lead_vdisk(node, vdisk, wanted);
    for (size_t i = 0; (job = database_at(database, TABLE_JOB, i)); i++) {
        if (job_is_active(job) && strcmp(job->kind, REBUILD_JOB) == 0 &&
            !database_find_name(database, TABLE_VOLUME, job->target))
            end_job(node, job, JOB_FAILED, "the volume was deleted");
    }
}

/* ---- the owner ---- */

static void tell(struct node *node, const struct job_record *job, uint64_t left_bytes,
                 uint64_t filled_bytes)
{
    struct job_progress now = repair_progress(job, left_bytes, filled_bytes);

    if (now.done_bytes == job->done_bytes && now.total_bytes == job->total_bytes &&
        left_bytes == job->left_bytes)
        return;
    node_propose_as_leader(
        node, job->base.id, 0,
        json_pack("{s:s,s:I,s:I,s:I,s:I}", "verb", "job.update", "job", (json_int_t)job->base.id,
                  "done_bytes", (json_int_t)now.done_bytes, "total_bytes",
                  (json_int_t)now.total_bytes, "left_bytes", (json_int_t)left_bytes));
}

static void look_after(struct node *node, struct node_volume *volume)
{
    const struct database *database = consensus_database(node->consensus);
    const struct volume_record *record = volume_record_of(volume);
    const struct job_record *job = record ? find_job(database, record) : NULL;
    uint64_t now_ns = io_now_ns(node->io), left_bytes;

    mirror_pause_resync(volume->mirror, job && job->state == JOB_PAUSED);
    if (!job || job->state != JOB_RUNNING || now_ns < volume->job_told_ns + TELL_NS)
        return;
    left_bytes = repair_left_bytes(database, volume->vdisk);
    if (left_bytes == 0)
        return; /* the leader ends it */
    volume->job_told_ns = now_ns;
    tell(node, job, left_bytes, mirror_status(volume->mirror).filled_blocks * BLOCK_SIZE);
}

void node_jobs_pass(struct node *node)
{
    list_for_each (entry, &node->volumes) {
        struct node_volume *volume = list_entry(entry, struct node_volume, node);

        if (volume->mirror && !mirror_stopped(volume->mirror))
            look_after(node, volume);
    }
}
