/* SPDX-License-Identifier: Apache-2.0 */
/**
 * @file
 * Reads a byte stream, writes back the whole frames in it, newly encoded, and counts the rest:
 *
 *     filter < capture.bin > frames.bin
 */
#include "wheel_leg_protocol.h"

#include <stdio.h>

int main(void)
{
    static uint8_t bytes[4096];
    wlp_decoder decoder;
    size_t size, taken;
    wlp_decoder_init(&decoder);
    while ((size = fread(bytes, 1, sizeof bytes, stdin)) > 0) {
        for (taken = 0; taken < size;) {
            uint8_t frame[WLP_TELEMETRY_FRAME];
            size_t length = 0;
            wlp_event event;
            wlp_command command;
            wlp_telemetry telemetry;
            taken += wlp_push_block(&decoder, bytes + taken, size - taken, &event);
            if (wlp_take_command(&decoder, &command)) {
                length = wlp_encode_command(&command, frame, sizeof frame);
            } else if (wlp_take_telemetry(&decoder, &telemetry)) {
                length = wlp_encode_telemetry(&telemetry, frame, sizeof frame);
            }
            if (fwrite(frame, 1, length, stdout) != length) {
                return 1;
            }
        }
    }
    fprintf(stderr, "command %lu telemetry %lu cobs %lu checksum %lu content %lu version %lu overlong %lu\n",
            (unsigned long)decoder.counts[WLP_COMMAND], (unsigned long)decoder.counts[WLP_TELEMETRY],
            (unsigned long)decoder.counts[WLP_ERROR_COBS], (unsigned long)decoder.counts[WLP_ERROR_CHECKSUM],
            (unsigned long)decoder.counts[WLP_ERROR_CONTENT], (unsigned long)decoder.counts[WLP_ERROR_VERSION],
            (unsigned long)decoder.counts[WLP_ERROR_OVERLONG]);
    return 0;
}
