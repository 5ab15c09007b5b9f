/* Stands in for libnvidia-ml.so.1. Every call looks into the file that $FAKE_NVML names:
 *
 *   gpus 8                                 how many there are (default 1)
 *   lost 3                                 GPU 3 answers GPU_IS_LOST to everything, until NVML is started anew
 *   mig 1                                  GPU 1 is in MIG mode with two instances
 *   xid 2 79                               GPU 2 reports XID 79, once to those who listen when the line appears
 *   fail nvmlDeviceGetPowerUsage 4         this call returns error 4; nvmlDeviceGetPowerUsage@3 on GPU 3 alone
 *   utilization 37                         and so on, see `number`
 *
 * -DOLD leaves out what drivers before 535 lack, -DANCIENT also what those before 390 lack.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int uint;
typedef unsigned long long ull;
typedef struct { int gpu, slice; } Device; /* slice -1: the whole GPU */

#define MOST 16
static Device whole[MOST], slices[MOST][2];
static int initialised, events_told, lost[MOST];

static FILE *control(void) { return fopen(getenv("FAKE_NVML"), "r"); }

/* The number after `key`, or `otherwise`. */
static double number(const char *key, double otherwise) {
    char line[200], name[100];
    double value, found = otherwise;
    FILE *file = control();
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "%99s %lf", name, &value) == 2 && !strcmp(name, key)) found = value;
    if (file) fclose(file);
    return found;
}

/* What the control file says that this call returns. */
static int fate(const char *call, const Device *device) {
    char line[200], name[100], own[100] = "";
    int code, found = 0;
    FILE *file = control();
    if (device) snprintf(own, sizeof own, "%s@%d", call, device->gpu);
    if (!initialised) found = 1;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "fail %99s %d", name, &code) == 2 && (!strcmp(name, call) || !strcmp(name, own))) found = code;
        if (sscanf(line, "lost %d", &code) == 1) lost[code] = 1;
    }
    if (file) fclose(file);
    if (device && lost[device->gpu]) found = 15;
    return found;
}
#define ASK(device) do { int code = fate(__func__, device); if (code) return code; } while (0)

#ifdef ANCIENT
int nvmlInit_v2(void) { initialised = 1; return fate("nvmlInit", 0); }
#else
int nvmlInitWithFlags(uint flags) {
    initialised = 1;
    int code = fate("nvmlInit", 0);
    initialised = !code;
    for (int i = 0; i < MOST; i++) {
        lost[i] = 0;
        whole[i] = (Device){i, -1};
        slices[i][0] = (Device){i, 0};
        slices[i][1] = (Device){i, 1};
    }
    return code;
}
#endif
int nvmlShutdown(void) { initialised = 0; return 0; }
const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "an error"; }
int nvmlSystemGetDriverVersion(char *text, uint size) { ASK(0); snprintf(text, size, "580.65.06"); return 0; }
int nvmlDeviceGetCount_v2(uint *count) { ASK(0); *count = (uint)number("gpus", 1); return 0; }
int nvmlDeviceGetHandleByIndex_v2(uint i, Device **device) { *device = &whole[i]; ASK(*device); return 0; }

int nvmlDeviceGetUUID(Device *d, char *text, uint size) {
    ASK(d);
    snprintf(text, size, d->slice < 0 ? "GPU-%d" : "MIG-%d-%d", d->gpu, d->slice);
    return 0;
}
int nvmlDeviceGetName(Device *d, char *text, uint size) {
    ASK(d);
    snprintf(text, size, "NVIDIA H100 80GB HBM3%s", d->slice == 0 ? " MIG 1g.10gb" : d->slice == 1 ? " MIG 3g.40gb" : "");
    return 0;
}
int nvmlDeviceGetUtilizationRates(Device *d, uint *rates) {
    ASK(d);
    rates[0] = (uint)number("utilization", 93);
    rates[1] = 41;
    return 0;
}
#define TWO(name, value) int name(Device *d, uint *v, uint *w) { ASK(d); *v = (uint)(value); *w = 1000; return 0; }
#define ONE(name, type, value) int name(Device *d, type *v) { ASK(d); *v = (type)(value); return 0; }
#define OF(name, type, value) int name(Device *d, int kind, type *v) { ASK(d); *v = (type)(value); return 0; }
TWO(nvmlDeviceGetEncoderUtilization, 3)
TWO(nvmlDeviceGetDecoderUtilization, 4)
ONE(nvmlDeviceGetTotalEnergyConsumption, ull, 123456789)
ONE(nvmlDeviceGetPowerUsage, uint, number("power_mW", 612345))
ONE(nvmlDeviceGetEnforcedPowerLimit, uint, 700000)
ONE(nvmlDeviceGetPcieReplayCounter, uint, 2)
ONE(nvmlDeviceGetCurrentClocksThrottleReasons, ull, number("reasons", 0))
ONE(nvmlDeviceGetGpuInstanceId, uint, 7 + d->slice)
ONE(nvmlDeviceGetComputeInstanceId, uint, 0)
ONE(nvmlDeviceGetMaxMigDeviceCount, uint, 7)
OF(nvmlDeviceGetClockInfo, uint, kind == 1 ? 1755 : 2619)
OF(nvmlDeviceGetMaxClockInfo, uint, 1980)
OF(nvmlDeviceGetTemperature, uint, 66)
OF(nvmlDeviceGetTemperatureThreshold, uint, 92)
OF(nvmlDeviceGetPcieThroughput, uint, kind == 0 ? 1000 : 5000)
int nvmlDeviceGetMigMode(Device *d, uint *now, uint *pending) {
    ASK(d);
    *now = *pending = number("mig", -1) == d->gpu;
    return 0;
}
int nvmlDeviceGetMemoryInfo(Device *d, ull *memory) {
    ASK(d);
    memory[0] = 80ULL << 30;
    memory[1] = d->slice < 0 ? 50ULL << 30 : 7ULL << 30;
    memory[2] = d->slice < 0 ? 30ULL << 30 : 1ULL << 30;
    return 0;
}
int nvmlDeviceGetTotalEccErrors(Device *d, int kind, int counter, ull *count) { ASK(d); *count = kind ? 1 : 12; return 0; }
int nvmlDeviceGetRemappedRows(Device *d, uint *good, uint *bad, uint *pending, uint *failed) {
    ASK(d);
    *good = 5, *bad = 1, *pending = 0, *failed = 1;
    return 0;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Device *d, uint i, Device **slice) {
    ASK(d);
    if (i != 1 && i != 4) return 6;
    *slice = &slices[d->gpu][i == 4];
    return 0;
}

typedef struct { uint pid; ull memory; uint gpu_instance, compute_instance; } Process;
static int processes(Device *d, uint *count, Process *found) {
    uint room = *count;
    *count = (uint)number("processes", 1);
    if (!*count) return 0;
    if (room < *count) return 7;
    for (uint i = 0; i < *count; i++) found[i] = (Process){4000 + i, i ? ~0ULL : 29ULL << 30, ~0u, ~0u};
    return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v2(Device *d, uint *count, Process *found) { ASK(d); return processes(d, count, found); }
int nvmlSystemGetProcessName(uint pid, char *text, uint size) {
    ASK(0);
    snprintf(text, size, "python\x1b[2J");
    return 0;
}

typedef struct { uint field, scope; long long timestamp, latency; int type, result; union { double d; uint u; int i; ull ull_; } value; } Field;
int nvmlDeviceGetFieldValues(Device *d, int count, Field *fields) {
    ASK(d);
    for (int i = 0; i < count; i++) {
        fields[i].result = 0;
        fields[i].type = 3;
        switch (fields[i].field) {
        case 82: fields[i].type = 1; fields[i].value.u = 71; break;
        case 194: fields[i].type = 5; fields[i].value.i = -2; fields[i].result = number("margins", 0) ? 0 : 3; break;
        case 138: case 139: fields[i].value.ull_ = fields[i].scope == ~0u ? 1000 : 1; break;
        case 38: fields[i].value.ull_ = 6; break;
        default: fields[i].result = 3;
        }
        if (number("nvlink", 1) == 0 && fields[i].field != 82 && fields[i].field != 194) fields[i].result = 3;
    }
    return 0;
}

typedef struct { Device *device; ull type, data; uint gpu_instance, compute_instance; } Event;
int nvmlEventSetCreate(void **set) {
    char line[200];
    ASK(0);
    FILE *file = control();
    for (events_told = 0; file && fgets(line, sizeof line, file);) events_told += !strncmp(line, "xid ", 4);
    if (file) fclose(file);
    *set = &events_told;
    return 0;
}
int nvmlEventSetFree(void *set) { return 0; }
int nvmlDeviceRegisterEvents(Device *d, ull types, void *set) { ASK(d); return types == 8 ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, Event *event, uint timeout_ms) {
    char line[200];
    int gpu, code, seen = 0;
    ASK(0);
    if (timeout_ms) abort(); /* telemetry does not wait */
    FILE *file = control();
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "xid %d %d", &gpu, &code) == 2 && seen++ == events_told) {
            events_told++;
            *event = (Event){&whole[gpu], 8, (ull)code, ~0u, ~0u};
            fclose(file);
            return 0;
        }
    if (file) fclose(file);
    return 10;
}

#ifndef OLD
int nvmlDeviceGetMarginTemperature(Device *d, uint *margin) { ASK(d); margin[1] = 20; return 0; }
ONE(nvmlDeviceGetCurrentClocksEventReasons, ull, number("reasons", 0))
int nvmlDeviceGetComputeRunningProcesses_v3(Device *d, uint *count, Process *found) { ASK(d); return processes(d, count, found); }
int nvmlDeviceGetTemperatureV(Device *d, uint *temperature) { ASK(d); temperature[2] = 67; return 0; }
typedef struct { uint version; ull total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(Device *d, Memory2 *memory) {
    ASK(d);
    if (memory->version != 0x02000028) return 25;
    *memory = (Memory2){memory->version, 80ULL << 30, 1ULL << 30, 49ULL << 30, 30ULL << 30};
    return 0;
}

typedef struct { uint metric; int result; double value; char *info[3]; } Metric;
typedef struct { uint version, count; int *before, *after; Metric metrics[]; } Metrics;
static int gpm_samples;
int nvmlGpmQueryDeviceSupport(Device *d, uint *support) { ASK(d); support[1] = (uint)number("gpm", 1); return 0; }
int nvmlGpmSampleAlloc(int **sample) { ASK(0); *sample = calloc(1, sizeof(int)); return *sample ? 0 : 20; }
int nvmlGpmSampleFree(int *sample) { free(sample); ASK(0); return 0; }
int nvmlGpmSampleGet(Device *d, int *sample) { ASK(d); *sample = ++gpm_samples; return 0; }
int nvmlGpmMetricsGet(Metrics *asked) {
    ASK(0);
    if (asked->version != 1 || *asked->before >= *asked->after) return 2;
    for (uint i = 0; i < asked->count; i++) {
        uint metric = asked->metrics[i].metric;
        asked->metrics[i].result = metric == 10 ? 3 : 0;
        asked->metrics[i].value = metric == 1 ? 98 : metric == 5 ? 55 : 64;
    }
    return 0;
}
#endif
