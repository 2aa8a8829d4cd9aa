/**
 * Where the files of the dashboard come from. Called by program.ts. The package carries them beside the program; in a
 * checkout they are built when somebody first opens the page, so that nobody else waits for that.
 */
import { readFileSync, readdirSync } from 'node:fs'
import type * as builder from '../systemd/dashboard.ts'
import type { DashboardFiles } from './ports.ts'

const PACKAGED = new URL('./dashboard/', import.meta.url)
/** No import of its own: a bundle of the coordinator must not carry the tool that makes bundles. */
const BUILDER = new URL('../systemd/dashboard.ts', import.meta.url).href
const TYPES: Readonly<Record<string, string>> = {
  html: 'text/html; charset=utf-8',
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  svg: 'image/svg+xml',
}

export function openDashboardFiles(): DashboardFiles {
  let files: ReturnType<DashboardFiles> | null = null
  return async () => {
    try {
      files ??= readFiles()
      return await files
    } catch (error) {
      // Whoever asks next may find what was missing.
      files = null
      throw error
    }
  }
}

async function readFiles(): ReturnType<DashboardFiles> {
  const found = packagedFiles() ?? (await builtFiles())
  return new Map(
    [...found].map(([name, bytes]) => {
      const type = TYPES[name.split('.').at(-1) ?? ''] ?? 'application/octet-stream'
      return [name === 'index.html' ? '/' : `/assets/${name}`, { type, bytes: Buffer.from(bytes) }]
    }),
  )
}

function packagedFiles(): ReadonlyMap<string, Uint8Array> | null {
  try {
    return new Map(readdirSync(PACKAGED).map((name) => [name, readFileSync(new URL(name, PACKAGED))]))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

async function builtFiles(): Promise<ReadonlyMap<string, Uint8Array>> {
  const { buildDashboard } = (await import(BUILDER)) as typeof builder
  return (await buildDashboard()).files
}
