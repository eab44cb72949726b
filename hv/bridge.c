/* A switch is a bridge of the node. QEMU makes the tap (it goes away with QEMU); we plug it in. */
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/hv_internal.h"

bool bridge_exists(const char *bridge)
{
    return if_nametoindex(bridge) != 0;
}

static int set_up(int fd, const char *interface)
{
    struct ifreq request = {0};

    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
    if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return -errno;
    request.ifr_flags |= IFF_UP;
    return ioctl(fd, SIOCSIFFLAGS, &request) < 0 ? -errno : 0;
}

int bridge_attach(const char *bridge, const char *interface)
{
    struct ifreq request = {.ifr_ifindex = (int)if_nametoindex(interface)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    int r = 0;

    if (fd < 0)
        return -errno;
    snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
    if (request.ifr_ifindex == 0)
        r = -ENODEV;
    else if (ioctl(fd, SIOCBRADDIF, &request) < 0 && errno != EBUSY) /* it is in it already */
        r = -errno;
    if (r == 0)
        r = set_up(fd, interface);
    close(fd);
    return r;
}
