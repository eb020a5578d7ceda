// One prompt, one token, with llama.cpp: the peer of benches/startup.py.
// Usage: first_token MODEL PROMPT THREADS CONTEXT. Loading options are the library's defaults; its log is off.
#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

static void quiet(ggml_log_level, const char *, void *) {}

int main(int argc, char ** argv) {
    if (argc != 5) {
        return 2;
    }
    llama_log_set(quiet, nullptr);
    llama_backend_init();
    const std::string prompt = argv[2];
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) {
        return 1;
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    std::vector<llama_token> ids(prompt.size() + 8);
    const int n = llama_tokenize(vocab, prompt.data(), int(prompt.size()), ids.data(), int(ids.size()), true, true);
    llama_context_params params = llama_context_default_params();
    params.n_threads = params.n_threads_batch = atoi(argv[3]);
    params.n_ctx = atoi(argv[4]);
    llama_context * ctx = n > 0 ? llama_init_from_model(model, params) : nullptr;
    if (!ctx || llama_decode(ctx, llama_batch_get_one(ids.data(), n)) != 0) {
        return 1;
    }
    char text[256];
    const llama_token id = llama_sampler_sample(llama_sampler_init_greedy(), ctx, -1);
    const int len = llama_token_to_piece(vocab, id, text, sizeof text, 0, true);
    if (len <= 0) {
        return 1;
    }
    fwrite(text, 1, size_t(len), stdout);
    return fflush(stdout);
}
