/*
 * vcpu.h - a thread for each processor: runs its engine, sleeps in HLT, stops when told.
 *
 * All functions belong to the main thread. vcpu_stop_all() returns when every thread stands still
 * outside its engine with struct cpu up to date (pulled); it holds no lock a device could want.
 */
#ifndef MACHINE_VCPU_H
#define MACHINE_VCPU_H

#include "machine/machine.h"

int vcpu_create_all(struct machine *m, struct error *err); /* threads, standing still */
void vcpu_run_all(struct machine *m);
void vcpu_stop_all(struct machine *m);
void vcpu_join_all(struct machine *m); /* ends the threads */

#endif
