#include "conf_int.h"

#include <string.h>

#define WORD_MAX 32

static unsigned int
least(unsigned int a, unsigned int b)
{
	return a < b ? a : b;
}

/*
 * Optimal string alignment: insertions, deletions, replacements and swaps of
 * neighbours, each counted once. Both at most WORD_MAX bytes.
 */
static unsigned int
distance(struct span a, struct span b)
{
	unsigned int d[WORD_MAX + 1][WORD_MAX + 1];

	for (size_t i = 0; i <= a.len; i++)
		d[i][0] = (unsigned int)i;
	for (size_t j = 0; j <= b.len; j++)
		d[0][j] = (unsigned int)j;
	for (size_t i = 1; i <= a.len; i++)
		for (size_t j = 1; j <= b.len; j++) {
			unsigned int cost = a.data[i - 1] != b.data[j - 1];

			d[i][j] = least(least(d[i - 1][j] + 1, d[i][j - 1] + 1),
			    d[i - 1][j - 1] + cost);
			if (i > 1 && j > 1 && a.data[i - 1] == b.data[j - 2] &&
			    a.data[i - 2] == b.data[j - 1])
				d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
		}
	return d[a.len][b.len];
}

const char *
conf_suggest(struct span word, const char *const *words)
{
	const char *best = NULL;
	unsigned int best_distance = 3;

	if (word.len > WORD_MAX)
		return NULL;
	for (; *words != NULL; words++) {
		struct span w = span_of_str(*words);
		unsigned int n;

		if (w.len > WORD_MAX)
			continue;
		n = distance(word, w);
		/* Two mistakes in a word of two are another word. */
		if (n < best_distance && n < w.len) {
			best = *words;
			best_distance = n;
		}
	}
	return best;
}
