// Where files enter the page: dropped, or picked with the keyboard or a finger.

import { useId, useState } from "preact/hooks";

interface DropProps {
  title: string;
  hint: string;
  files: File[];
  multiple?: boolean;
  onFiles: (files: File[]) => void;
}

export function Drop({ title, hint, files, multiple, onFiles }: DropProps) {
  const [over, setOver] = useState(false);
  const hintId = useId();
  const take = (list: FileList | null | undefined) => {
    const given = [...(list ?? [])].filter((file) => !file.name.startsWith("."));
    if (given.length) {
      onFiles(multiple ? given : given.slice(0, 1));
    }
  };
  return (
    <label
      class={`drop ${over ? "over" : ""} ${files.length ? "filled" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        take(event.dataTransfer?.files);
      }}
    >
      <input
        type="file"
        multiple={multiple}
        aria-describedby={hintId}
        onChange={(event) => {
          take(event.currentTarget.files);
          event.currentTarget.value = ""; // the same files can be picked again
        }}
      />
      <span class="title">{title}</span>
      <span class="hint" id={hintId}>
        {files.length ? named(files) : hint}
      </span>
    </label>
  );
}

function named(files: File[]): string {
  return files.length > 2 ? `${files.length} files, ${files[0]!.name} …` : files.map((file) => file.name).join(", ");
}

const ZIP = 0x504b0304;

/** Whether a file is a zip, by its content. */
export async function isZip(file: File): Promise<boolean> {
  const head = await file.slice(0, 4).arrayBuffer();
  return head.byteLength === 4 && new DataView(head).getUint32(0) === ZIP;
}
