import { defineConfig } from 'vite';

// Names without digests: the table of files in the controller stays the same from build to build.
const names = { entryFileNames: '[name].js', chunkFileNames: '[name].js', assetFileNames: '[name][extname]' };

export default defineConfig({
  base: './',
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    target: 'es2022',
    // The policy of the page permits no data: addresses and no inline script.
    assetsInlineLimit: 0,
    modulePreload: false,
    cssCodeSplit: false,
    reportCompressedSize: false,
    rollupOptions: { input: { app: 'index.html' }, output: names },
  },
  worker: { format: 'es', rollupOptions: { output: names } },
});
