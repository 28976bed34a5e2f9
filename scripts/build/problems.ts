import { explanations } from '../../src/docs/problems.ts'
import { problems, type ProblemType } from '../../src/errors.ts'

const types = Object.keys(problems).sort() as ProblemType[] // the keys of that object

/** The text as HTML, with `code`. */
const html = (text: string) =>
  text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll(/`([^`]+)`/g, '<code>$1</code>')

const page = (title: string, content: string) => `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8" />
    <meta name="viewport" content="width=device-width, initial-scale=1" />
    <meta name="color-scheme" content="light dark" />
    <title>${html(title)} · threads-edge</title>
    <link rel="icon" href="/dashboard/icon.svg" type="image/svg+xml" />
    <link rel="stylesheet" href="/problems/problems.css" />
  </head>
  <body>
    <header><a href="/docs/">API reference</a> <a href="/problems/">All problems</a></header>
    <main>
      <h1>${html(title)}</h1>
${content}
    </main>
  </body>
</html>
`

const explain = (type: ProblemType) => {
  const { meaning, cause, remedy } = explanations[type]
  return `      <p>Type <code>/problems/${type}</code>, status ${problems[type].status}</p>
      <h2>What it means</h2>
      <p>${html(meaning)}</p>
      <h2>Why it happens</h2>
      <p>${html(cause)}</p>
      <h2>What to do</h2>
      <p>${html(remedy)}</p>`
}

const list = () => `      <dl>
${types.map((type) => `        <dt><a href="/problems/${type}">${type}</a> (${problems[type].status})</dt>\n        <dd>${html(problems[type].title)}</dd>`).join('\n')}
      </dl>`

/** The pages that explain problems, by path. They are at the `type` of each problem document. */
export const problemPages = (): Record<string, string> => ({
  'public/problems/index.html': page('Problems', list()),
  ...Object.fromEntries(
    types.map((type) => [`public/problems/${type}.html`, page(problems[type].title, explain(type))]),
  ),
})
