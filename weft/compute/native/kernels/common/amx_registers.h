// AMX tile registers, in the shapes that the kernels use.
//
// Within a step of 32 of the depth, the hardware adds even and odd neighbours separately, an order that vector code does not
// reproduce. So what is computed in AMX is computed in AMX for every number of rows, to keep a row's bits.
#pragma once

#if defined(__AMX_BF16__)

#include <immintrin.h>
#include <stdint.h>

namespace weft {

constexpr int kAmxStep = 32;  // of the depth, that one instruction multiplies

// Compilers do not model that AMX instructions access memory: this barrier orders earlier stores before tile loads, and keeps
// later stores to the same memory after them.
inline void settle_memory() { asm volatile("" ::: "memory"); }

// The calling thread's registers, for as long as this lives. 0 to 3: sums, 4 and 5: rows, 6 and 7: columns; a weight's columns
// may stand for rows, and rows for columns.
class AmxRegisters {
public:
    AmxRegisters() = default;
    ~AmxRegisters() {
        if (form_ != NONE) _tile_release();
    }
    AmxRegisters(const AmxRegisters&) = delete;
    AmxRegisters& operator=(const AmxRegisters&) = delete;

    // For products of attention: 0 to 4 for `rows` rows, 6 for columns as they are, 5 and 7 for half of the depth.
    void shape_halves(int rows) {
        if (had(HALVES, rows, 0)) return;
        alignas(64) Shape to;
        for (int i : {0, 1, 2, 3, 4, 5}) to.set(i, rows);
        to.row_bytes[5] = 32;
        to.set(6, 16), to.set(7, 8);
        load(to);
    }

    // 0, 1 and 4 for `upper` rows, 2, 3 and 5 for `lower` ones (1 to 16; lower: 0 where they are not used). What they held
    // is gone where they had another shape.
    void shape(int upper, int lower) {
        if (had(ROWS, upper, lower)) return;
        alignas(64) Shape to;
        for (int i : {0, 1, 4}) to.set(i, upper);
        for (int i : {2, 3, 5}) to.set(i, lower);
        for (int i : {6, 7}) to.set(i, 16);
        load(to);
    }

    // 0 and 1 for 16 columns of a weight times `left` rows, 2 and 3 times `right` ones (right: 0 where they are not used), 4
    // and 5 for those columns, 6 and 7 for the rows, pairs of the depth below each other.
    void shape_columns(int left, int right) {
        if (had(COLUMNS, left, right)) return;
        alignas(64) Shape to;
        for (int i : {4, 5}) to.set(i, 16);
        for (int i : {0, 1, 6}) to.set(i, 16, 4 * left);
        for (int i : {2, 3, 7}) to.set(i, right ? 16 : 0, 4 * right);
        load(to);
    }

private:
    enum Form { NONE, ROWS, HALVES, COLUMNS };

    struct Shape {  // Intel 64 and IA-32 Architectures Software Developer's Manual, LDTILECFG
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {};
        uint8_t rows[16] = {};

        void set(int tile, int count, int bytes = 64) {
            rows[tile] = uint8_t(count), row_bytes[tile] = uint16_t(count ? bytes : 0);
        }
    };

    // Whether they had this form before; they have it from now on.
    bool had(Form form, int first, int second) {
        if (form == form_ && first == first_ && second == second_) return true;
        form_ = form, first_ = first, second_ = second;
        return false;
    }

    static void load(const Shape& to) {
        settle_memory();
        asm volatile("" : : "m"(to));  // the compiler assumes that only the first word is read
        _tile_loadconfig(&to);
    }

    Form form_ = NONE;
    int first_ = 0, second_ = 0;
};

}  // namespace weft

#endif
