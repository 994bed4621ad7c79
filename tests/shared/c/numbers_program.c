/* Reads floats, and writes what they are after they were stored as numbers. */

#include <stdio.h>

#include "numbers.h"

int main(void) {
    float read[VECTOR], one;
    number kept[VECTOR];
    vector all;
    while (fread(read, sizeof *read, VECTOR, stdin) == VECTOR) {
        for (int i = 0; i < VECTOR; i++) kept[i] = rounded(read[i]);
        all = load_vector(kept);
        for (int i = 0; i < VECTOR; i++) {
            one = load(kept[i]);
            fwrite(&one, sizeof one, 1, stdout);
            one = all[i];
            fwrite(&one, sizeof one, 1, stdout);
        }
    }
    return 0;
}
