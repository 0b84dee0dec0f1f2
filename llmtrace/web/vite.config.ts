import { defineConfig } from "vite";

// Three files with names that do not change, which llmtrace/build.rs embeds.
export default defineConfig({
  base: "./",
  // `npm run dev` shows what an agent on its usual port answers.
  server: { proxy: { "/api": "http://127.0.0.1:9466", "/metrics": "http://127.0.0.1:9466" } },
  build: {
    outDir: "dist",
    // The folder has a file of git's.
    emptyOutDir: false,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "app.js",
        assetFileNames: "app[extname]",
        banner: "/*! uPlot (c) Leon Sorokin, MIT licence, https://github.com/leeoniya/uPlot */",
      },
    },
  },
});
