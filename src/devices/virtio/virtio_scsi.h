/* virtio_scsi.h - the SCSI bus of a virtio-scsi adapter. */
#ifndef DEVICES_VIRTIO_VIRTIO_SCSI_H
#define DEVICES_VIRTIO_VIRTIO_SCSI_H

struct device;
struct scsi_bus;

struct scsi_bus *virtio_scsi_bus(struct device *dev); /* NULL: it is none */

#endif
