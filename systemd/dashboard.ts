/**
 * The dashboard as the files that a browser loads: one script, one style sheet, an icon, and the page that names
 * them by hash. Called by package.ts, and by the coordinator of a checkout when somebody first opens the page.
 */
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const WEB = fileURLToPath(new URL('../coordinator/web/', import.meta.url))

/** The files by name, and the input files of the bundle, whose licences must go with it. */
export type Dashboard = { readonly files: ReadonlyMap<string, Uint8Array>; readonly inputs: readonly string[] }

export async function buildDashboard(): Promise<Dashboard> {
  const { outputFiles, metafile } = await build({
    absWorkingDir: WEB,
    entryPoints: ['main.tsx', 'style.css'],
    outdir: WEB,
    bundle: true,
    write: false,
    metafile: true,
    format: 'esm',
    target: ['chrome111', 'firefox115', 'safari16.4'],
    jsx: 'automatic',
    jsxImportSource: 'preact',
    minify: true,
    legalComments: 'none',
    logLevel: 'warning',
  })
  const contentOf = (end: string) => outputFiles.find(({ path }) => path.endsWith(end))?.contents ?? new Uint8Array()
  const script = hashed('dashboard', 'js', contentOf('.js'))
  const style = hashed('dashboard', 'css', contentOf('.css'))
  const icon = hashed('icon', 'svg', await readFile(`${WEB}icon.svg`))
  const page = (await readFile(`${WEB}index.html`, 'utf8'))
    .replace('SCRIPT', script.name)
    .replace('STYLE', style.name)
    .replace('ICON', icon.name)
  const files = new Map([script, style, icon].map(({ name, bytes }) => [name, bytes]))
  files.set('index.html', Buffer.from(page))
  return { files, inputs: Object.keys(metafile.inputs) }
}

function hashed(stem: string, end: string, bytes: Uint8Array): { readonly name: string; readonly bytes: Uint8Array } {
  return { name: `${stem}-${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}.${end}`, bytes }
}
